// The depthwise convolution of a tile with all its channels, then LayerNorm; or, without LayerNorm, of one chunk of
// them. Chunk after chunk, the window of the inputs comes to shared memory (the next one's copy runs meanwhile),
// threads convolve strips of it and leave the results in shared memory; a few lanes then normalise each row of results
// and write it.
#pragma once

#include "cuda/common/row_norm.cuh"
#include "cuda/dwconv/tiling.cuh"

namespace cnv2 {

constexpr int kDwconvThreads = 256;

// The bytes of each piece of a block's shared memory, in this order: windows, taps, results, LayerNorm's parameters.
struct DwconvForwardShared {
  int64_t window, taps, results, params;

  DwconvForwardShared(const DwconvCudaTiling& t, int channels, int64_t size, int64_t c, bool norm)
      : window((t.rows + kDwconvSide - 1) * int64_t{t.pitch} * channels * size),
        taps(int64_t{kDwconvTaps} * channels * int64_t{sizeof(float)}),
        results(int64_t{t.rows} * t.columns * t.z_pitch * size),
        params(norm ? 2 * c * int64_t{sizeof(float)} : 0) {}
  int64_t bytes(int stages) const { return stages * (window + taps) + results + params; }
};

// There is a block for each tile and, without LayerNorm, for each chunk of channels (blockIdx.y).
template <class T, int kChannels, int kStrip, int kRows, bool kSites>
__global__ void __launch_bounds__(kDwconvThreads, 2)
    dwconv_forward_kernel(const DwconvForward p, const DwconvCudaTiling t) {
  CNV2_SHARED(shared);
  constexpr int kPairs = kChannels / 2;
  const int c = static_cast<int>(p.c);
  const int window = (t.rows + kDwconvSide - 1) * t.pitch * kChannels;
  T* const windows = reinterpret_cast<T*>(shared);                            // [stages, rows + 6, pitch, kChannels]
  float* const taps = reinterpret_cast<float*>(windows + t.stages * window);  // [stages, 49, kChannels]
  T* const results = reinterpret_cast<T*>(taps + t.stages * kDwconvTaps * kChannels);        // [rows, columns, z_pitch]
  float* const params = reinterpret_cast<float*>(results + t.rows * t.columns * t.z_pitch);  // [2, C]
  const T* __restrict__ const x = static_cast<const T*>(p.x);                                // [T, C]
  T* __restrict__ const y = static_cast<T*>(p.y);                                            // [T, C]
  T* __restrict__ const z = static_cast<T*>(p.z);                                            // [T, C], or null
  const bool norm = p.ln_weight != nullptr;

  const Tile tile = tile_of(p.plane, t, blockIdx.x);
  const int strips_y = kSites ? t.rows / kRows : (tile.rows + kRows - 1) / kRows;
  int strips = strips_y * ((tile.columns + kStrip - 1) / kStrip);
  unsigned active = 0;
  if constexpr (kSites) {
    active = active_strips<kStrip, kRows>(p.plane, t, tile);
    strips = __popc(active);
    if (strips == 0) return;
  }

  const auto load = [&](int chunk, int stage) {
    const int64_t c0 = int64_t{chunk} * kChannels;
    load_window<T, kChannels, kSites>(windows + stage * window, x, p.plane, t, tile, tile.y - kDwconvPad,
                                      tile.x - kDwconvPad, tile.rows + kDwconvSide - 1, tile.columns + kDwconvSide - 1,
                                      c0, p.c);
    load_taps<kChannels>(taps + stage * kDwconvTaps * kChannels, p.taps, p.flipped, t.taps_aligned, c0, p.c);
    commit_copies();
  };
  const int first = norm ? 0 : blockIdx.y, last = norm ? t.chunks : first + 1;
  load(first, 0);
  if (norm) {
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
      params[i] = load_param(p.ln_weight, p.param_dtype, i);
      params[c + i] = load_param(p.ln_bias, p.param_dtype, i);
    }
  }
  for (int chunk = first; chunk < last; ++chunk) {
    const int stage = t.stages == 2 ? (chunk - first) % 2 : 0;
    if (t.stages == 2 && chunk + 1 < last) {
      load(chunk + 1, 1 - stage);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    for (int item = threadIdx.x; item < strips * kPairs; item += blockDim.x) {
      const int pair = item % kPairs * 2, number = kSites ? nth_bit(active, item / kPairs) : item / kPairs;
      const int row = number % strips_y * kRows, column = number / strips_y * kStrip;
      const T* in = windows + stage * window + (row * t.pitch + column) * kChannels + pair;
      float acc[kRows][kStrip][2] = {};
      convolve_strip<T, kChannels, kStrip, kRows>(in, t.pitch, taps + stage * kDwconvTaps * kChannels + pair, acc);
      float bias[2] = {};
      const int channel = chunk * kChannels + pair;
      if (p.bias != nullptr) {
        for (int i = 0; i < 2; ++i) bias[i] = channel + i < c ? load_param(p.bias, p.param_dtype, channel + i) : 0.0f;
      }
      T* out = results + (row * t.columns + column) * t.z_pitch + (chunk - first) * kChannels + pair;
#pragma unroll
      for (int o = 0; o < kRows; ++o) {
        if (row + o >= t.rows) continue;
#pragma unroll
        for (int j = 0; j < kStrip; ++j) {  // the bias last: a large one does not cost the sums their low bits
          const float z[2] = {acc[o][j][0] + bias[0], acc[o][j][1] + bias[1]};
          store_vector<2>(out + (o * t.columns + j) * t.z_pitch, z);
        }
      }
    }
    __syncthreads();
    if (t.stages == 1 && chunk + 1 < last) load(chunk + 1, 0);
  }

  if (norm) {
    const int group = threadIdx.x / t.lanes, lane = threadIdx.x % t.lanes, groups = blockDim.x / t.lanes;
    for (int begin = 0; begin < tile.rows * tile.columns; begin += groups) {
      const int number = begin + group, row = number / tile.columns, column = number % tile.columns;
      bool live = number < tile.rows * tile.columns;
      int64_t at = 0;
      if (live) at = row_of<kSites>(p.plane, tile, tile.y + row, tile.x + column);
      live = live && at >= 0;
      const T* in = results + (row * t.columns + column) * t.z_pitch;
      T* const to_y = y + at * p.c;
      T* const to_z = z == nullptr ? nullptr : z + at * p.c;
      if (!t.aligned)
        normalise_row<1, 0>(in, params, params + c, to_y, to_z, c, p.eps, lane, t.lanes, live);
      else if (c <= 4 * kWide<T> * t.lanes)
        normalise_row<kWide<T>, 4>(in, params, params + c, to_y, to_z, c, p.eps, lane, t.lanes, live);
      else
        normalise_row<kWide<T>, 0>(in, params, params + c, to_y, to_z, c, p.eps, lane, t.lanes, live);
    }
  } else {
    constexpr int kVectors = kChannels / kWide<T>;
    for (int i = threadIdx.x; i < tile.rows * tile.columns * kVectors; i += blockDim.x) {
      const int number = i / kVectors, row = number / tile.columns, column = number % tile.columns;
      const int channel = first * kChannels + i % kVectors * kWide<T>;
      const int64_t at = row_of<kSites>(p.plane, tile, tile.y + row, tile.x + column);
      if (at < 0 || channel >= c) continue;
      const T* in = results + (row * t.columns + column) * t.z_pitch + i % kVectors * kWide<T>;
      T* const out = y + at * p.c + channel;
      if (p.addend != nullptr) {
        const T* const addend = static_cast<const T*>(p.addend) + at * p.c + channel;
        for (int k = 0; k < kWide<T> && channel + k < c; ++k)
          store_float(out + k, load_float(in + k) + load_float(addend + k));
      } else if (t.aligned) {
        *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(in);
      } else {
        for (int k = 0; k < kWide<T> && channel + k < c; ++k) out[k] = in[k];
      }
    }
  }
}

}  // namespace cnv2
