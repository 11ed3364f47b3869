// The gradients of the depthwise convolution's input, taps and bias in one pass over dy and x. At one site of the input
// both gradients want the same window of dy: dx sums it times the taps, and each tap's gradient sums it times x. A
// block takes a chunk of the channels through its share of the tiles, keeps the taps' gradients in registers, and adds
// up its threads' at the end.
#pragma once

#include "cuda/dwconv/tiling.cuh"

namespace cnv2 {

constexpr int kDwconvBackwardThreads = 128;

// How many blocks of a processor the registers allow: a thread holds 98 sums and what surrounds them. From sm_100 on
// the compiler wants a few more registers than three blocks leave it.
constexpr int dwconv_backward_resident(int capability) { return capability >= 100 ? 2 : 3; }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kDwconvBackwardResident = dwconv_backward_resident(100);
#else
constexpr int kDwconvBackwardResident = dwconv_backward_resident(80);
#endif

// The bytes of each piece of a block's shared memory, in this order: windows of dy, tiles of x, taps. At the end the
// threads' sums take the place of them all.
struct DwconvBackwardShared {
  int64_t dy, x, taps, sums;

  DwconvBackwardShared(const DwconvCudaTiling& t, int channels, int64_t size)
      : dy((t.rows + kDwconvSide - 1) * int64_t{t.pitch} * channels * size),
        x(int64_t{t.rows} * t.pitch * channels * size),
        taps(int64_t{kDwconvTaps} * channels * int64_t{sizeof(float)}),
        sums(int64_t{kDwconvBackwardThreads} * 2 * kDwconvSums * int64_t{sizeof(float)}) {}
  int64_t bytes(int stages) const {
    const int64_t work = stages * (dy + x) + taps;
    return work > sums ? work : sums;
  }
};

// The grid has blocks that share the tiles (x) and chunks of channels (y).
template <class T, int kChannels, int kStrip, bool kSites>
__global__ void __launch_bounds__(kDwconvBackwardThreads, kDwconvBackwardResident)
    dwconv_backward_kernel(const DwconvBackward p, const DwconvCudaTiling t, const int tiles) {
  CNV2_SHARED(shared);
  constexpr int kPairs = kChannels / 2, kSlots = kDwconvBackwardThreads / kPairs;
  const int window = (t.rows + kDwconvSide - 1) * t.pitch * kChannels, inner = t.rows * t.pitch * kChannels;
  T* const windows = reinterpret_cast<T*>(shared);                          // [stages, rows + 6, pitch, kChannels]
  T* const inners = windows + t.stages * window;                            // [stages, rows, pitch, kChannels]
  float* const taps = reinterpret_cast<float*>(inners + t.stages * inner);  // [49, kChannels]
  const T* const dy = static_cast<const T*>(p.dy);                          // [T, C]
  const T* const x = static_cast<const T*>(p.x);                            // [T, C]
  const int64_t c0 = int64_t{blockIdx.y} * kChannels;
  const int pair = threadIdx.x % kPairs * 2, slot = threadIdx.x / kPairs;
  const bool whole_pairs = p.c % 2 == 0;

  const auto load = [&](int number, int stage) {
    if (number < tiles) {
      const Tile tile = tile_of(p.plane, t, number);
      load_window<T, kChannels, kSites>(windows + stage * window, dy, p.plane, t, tile, tile.y - kDwconvPad,
                                        tile.x - kDwconvPad, tile.rows + kDwconvSide - 1, t.columns + kDwconvSide - 1,
                                        c0, p.c);
      load_window<T, kChannels, kSites>(inners + stage * inner, x, p.plane, t, tile, tile.y, tile.x, tile.rows,
                                        t.columns, c0, p.c);
    }
    commit_copies();
  };

  float dtap[kDwconvSide][kDwconvSide][2] = {};  // by [y][x] of the window, which is the reverse order of the taps
  float dbias[2] = {};
  load_taps<kChannels>(taps, p.taps, true, t.taps_aligned, c0, p.c);
  const int step = static_cast<int>(gridDim.x);
  load(blockIdx.x, 0);
  int stage = 0;
  for (int number = blockIdx.x; number < tiles; number += step) {
    if (t.stages == 2) {
      load(number + step, 1 - stage);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const Tile tile = tile_of(p.plane, t, number);
    int strips = tile.rows * ((tile.columns + kStrip - 1) / kStrip);
    unsigned active = 0;
    if constexpr (kSites) {
      active = active_strips<kStrip, 1>(p.plane, t, tile);
      strips = __popc(active);
    }
    for (int i = slot; i < strips; i += kSlots) {
      const int strip = kSites ? nth_bit(active, i) : i, strips_y = kSites ? t.rows : tile.rows;
      const int row = strip % strips_y, column = strip / strips_y * kStrip;
      const T* const in = inners + stage * inner + (row * t.pitch + column) * kChannels + pair;
      const T* const around = windows + stage * window + (row * t.pitch + column) * kChannels + pair;
      float value[kStrip][2], dx[kStrip][2] = {};
#pragma unroll
      for (int j = 0; j < kStrip; ++j) load_vector<2>(in + j * kChannels, value[j]);
#pragma unroll
      for (int r = 0; r < kDwconvSide; ++r) {
        // Never true, but ptxas cannot know: it keeps loads from moving further ahead than there are registers for.
        if (t.rows < 2 * r - 15) break;
        float tap[kDwconvSide][2];
#pragma unroll
        for (int k = 0; k < kDwconvSide; ++k) load_vector<2>(taps + (k * kDwconvSide + r) * kChannels + pair, tap[k]);
#pragma unroll
        for (int k = 0; k < kStrip + kDwconvSide - 1; ++k) {
          if (k == (kStrip + kDwconvSide - 1) / 2 && t.rows < 2 * r - 14) break;
          float g[2];
          load_vector<2>(around + (r * t.pitch + k) * kChannels, g);
          if (r == kDwconvPad && k >= kDwconvPad && k < kDwconvPad + kStrip) dbias[0] += g[0], dbias[1] += g[1];
#pragma unroll
          for (int j = 0; j < kStrip; ++j) {
            if (k - j < 0 || k - j >= kDwconvSide) continue;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              dx[j][h] = fmaf(g[h], tap[k - j][h], dx[j][h]);
              dtap[r][k - j][h] = fmaf(g[h], value[j][h], dtap[r][k - j][h]);
            }
          }
        }
      }
      if (p.dx == nullptr) continue;
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        if (column + j >= tile.columns || c0 + pair >= p.c) continue;
        const int64_t at = row_of<kSites>(p.plane, tile, tile.y + row, tile.x + column + j);
        if (at < 0) continue;
        T* const out = static_cast<T*>(p.dx) + at * p.c + c0 + pair;
        if (p.addend != nullptr) {
          const T* const addend = static_cast<const T*>(p.addend) + at * p.c + c0 + pair;
          dx[j][0] += load_float(addend);
          if (c0 + pair + 1 < p.c) dx[j][1] += load_float(addend + 1);
        }
        if (whole_pairs) {
          store_vector<2>(out, dx[j]);
        } else {
          store_float(out, dx[j][0]);
          if (c0 + pair + 1 < p.c) store_float(out + 1, dx[j][1]);
        }
      }
    }
    __syncthreads();
    if (t.stages == 1) load(number + step, 0);
    stage = t.stages == 2 ? 1 - stage : 0;
  }
  wait_for_copies<0>();
  __syncthreads();

  // Leaves the sums as [gradient][slot][channel], then adds them up over the slots in order.
  float* const sums = reinterpret_cast<float*>(shared);
  const auto put = [&](int gradient, const float (&v)[2]) {
    store_vector<2>(sums + (gradient * kSlots + slot) * kChannels + pair, v);
  };
#pragma unroll
  for (int r = 0; r < kDwconvSide; ++r) {
#pragma unroll
    for (int k = 0; k < kDwconvSide; ++k) put((kDwconvSide - 1 - k) * kDwconvSide + kDwconvSide - 1 - r, dtap[r][k]);
  }
  put(kDwconvTaps, dbias);
  __syncthreads();
  float* const out = p.partial + int64_t{blockIdx.x} * kDwconvSums * p.c;
  for (int i = threadIdx.x; i < kDwconvSums * kChannels; i += kDwconvBackwardThreads) {
    const int gradient = i / kChannels, channel = i % kChannels;
    if (c0 + channel >= p.c) continue;
    float total = 0.0f;
    for (int s = 0; s < kSlots; ++s) total += sums[(gradient * kSlots + s) * kChannels + channel];
    out[gradient * p.c + c0 + channel] = total;
  }
}

}  // namespace cnv2
