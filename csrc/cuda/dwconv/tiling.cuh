// What the kernels of the depthwise convolution share: windows of the plane in shared memory, and the sums of a strip.
// Lanes run across pairs of channels; a thread slides a register window along a row of its window in shared memory.
#pragma once

#include "common/dwconv.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/vector.cuh"

namespace cnv2 {

// How a plane is cut into tiles, and a block's shared memory into pieces; chosen by the launchers.
struct DwconvCudaTiling {
  int rows, columns;     // outputs of a tile
  int pitch;             // columns of a window in shared memory; odd, so that neighbouring rows lie in other banks
  int tiles_x, tiles_y;  // tiles of a plane
  int chunks;            // pieces that the channels are cut into
  int stages;            // windows in shared memory: 2 let copies run beside the computation
  bool aligned;          // whether the activations' rows are made of 16-byte vectors
  bool taps_aligned;     // the same of the taps' rows
  int z_pitch;           // elements of a staged row of results
  int lanes;             // how many lanes normalise a row together, a power of 2
};

struct Tile {
  int64_t origin;     // flat index of site (n, 0, 0)
  int y, x;           // its first output
  int rows, columns;  // how many of its outputs lie inside the plane
};

__device__ inline Tile tile_of(const DwconvPlane& plane, const DwconvCudaTiling& t, unsigned number) {
  const unsigned per_plane = t.tiles_x * t.tiles_y, n = number / per_plane;
  const int in_plane = static_cast<int>(number - n * per_plane);
  Tile tile;
  tile.origin = int64_t{n} * plane.h * plane.w;
  tile.y = in_plane / t.tiles_x * t.rows;
  tile.x = in_plane % t.tiles_x * t.columns;
  tile.rows = min(t.rows, plane.h - tile.y);
  tile.columns = min(t.columns, plane.w - tile.x);
  return tile;
}

// The row of a site inside the plane; -1 where the site is inactive.
template <bool kSites>
__device__ inline int64_t row_of(const DwconvPlane& plane, const Tile& tile, int y, int x) {
  const int64_t site = tile.origin + int64_t{y} * plane.w + x;
  return kSites ? plane.map[site] : site;
}

// Copies channels [c0, c0 + kChannels) of the window of `rows` x `columns` sites at (y, x) to shared memory
// [rows][pitch][kChannels]; zeros outside the plane, at inactive sites and beyond the last channel. Pointers have no
// __restrict__ here and in the backward kernel: with it that kernel's loop takes more instructions.
template <class T, int kChannels, bool kSites>
__device__ inline void load_window(T* to,          // in shared memory
                                   const T* from,  // [T, C]
                                   const DwconvPlane& plane, const DwconvCudaTiling& t, const Tile& tile, int y, int x,
                                   int rows, int columns, int64_t c0, int64_t c) {
  constexpr int kVectors = kChannels / kWide<T>;
  const int vector = threadIdx.x % kVectors, first = threadIdx.x / kVectors, step = blockDim.x / kVectors;
  const int down = step / columns, right = step % columns;
  const int64_t channel = c0 + vector * kWide<T>;
  int row = first / columns, column = first % columns;
#pragma unroll 1
  while (row < rows) {
    bool live = y + row >= 0 && y + row < plane.h && x + column >= 0 && x + column < plane.w && channel < c;
    int64_t at = 0;
    if (live) at = row_of<kSites>(plane, tile, y + row, x + column);
    live = live && at >= 0;
    T* const slot = to + (row * t.pitch + column) * kChannels + vector * kWide<T>;
    if (t.aligned) {
      copy_async16(slot, live ? from + at * c + channel : from, live);
    } else {
#pragma unroll 1  // rare, and registers are dear
      for (int i = 0; i < kWide<T>; ++i) slot[i] = live && channel + i < c ? from[at * c + channel + i] : T{};
    }
    row += down;
    column += right;
    if (column >= columns) {
      column -= columns;
      ++row;
    }
  }
}

// Copies the taps of the same channels to shared memory [49][kChannels]; zeros beyond the last channel.
template <int kChannels>
__device__ inline void load_taps(float* to,          // in shared memory
                                 const float* from,  // [49, C]
                                 bool flipped, bool aligned, int64_t c0, int64_t c) {
  constexpr int kVectors = kChannels / 4;
  for (int i = threadIdx.x; i < kDwconvTaps * kVectors; i += blockDim.x) {
    const int tap = i / kVectors;
    const int64_t channel = c0 + i % kVectors * 4;
    const float* source = from + (flipped ? kDwconvTaps - 1 - tap : tap) * c + channel;
    if (aligned) {
      copy_async16(to + i * 4, channel < c ? source : from, channel < c);
    } else {
#pragma unroll 1
      for (int k = 0; k < 4; ++k) to[i * 4 + k] = channel + k < c ? source[k] : 0.0f;
    }
  }
}

// Adds the convolution at kRows x kStrip outputs of one pair of channels. `in`: the pair at the first output's window
// in shared memory; `taps`: the pair's first tap. Each input is loaded once for all kRows rows.
template <class T, int kChannels, int kStrip, int kRows>
__device__ __forceinline__ void convolve_strip(const T* in, int pitch, const float* taps,
                                               float (&acc)[kRows][kStrip][2]) {
  float tap[kRows][kDwconvSide][2];  // tap[i]: of the kernel's row that output row i takes from input row r
#pragma unroll
  for (int r = 0; r < kDwconvSide + kRows - 1; ++r) {
#pragma unroll
    for (int i = kRows - 1; i > 0; --i) {
#pragma unroll
      for (int k = 0; k < kDwconvSide; ++k) tap[i][k][0] = tap[i - 1][k][0], tap[i][k][1] = tap[i - 1][k][1];
    }
    if (r < kDwconvSide) {
#pragma unroll
      for (int k = 0; k < kDwconvSide; ++k) load_vector<2>(taps + (k * kDwconvSide + r) * kChannels, tap[0][k]);
    }
    const T* const line = in + r * pitch * kChannels;
#pragma unroll
    for (int i = 0; i < kStrip + kDwconvSide - 1; ++i) {
      float value[2];
      load_vector<2>(line + i * kChannels, value);
#pragma unroll
      for (int o = 0; o < kRows; ++o) {
        if (r - o < 0 || r - o >= kDwconvSide) continue;
#pragma unroll
        for (int j = 0; j < kStrip; ++j) {
          if (i - j < 0 || i - j >= kDwconvSide) continue;
          acc[o][j][0] = fmaf(value[0], tap[o][i - j][0], acc[o][j][0]);
          acc[o][j][1] = fmaf(value[1], tap[o][i - j][1], acc[o][j][1]);
        }
      }
    }
  }
}

// A bit for each strip of kStrip x kRows sites of the tile that holds an active one; the same for all threads of a
// warp. Strips count rows first: strip s is at row s % strips_y * kRows, column s / strips_y * kStrip. At most 32
// strips.
template <int kStrip, int kRows>
__device__ inline unsigned active_strips(const DwconvPlane& plane, const DwconvCudaTiling& t, const Tile& tile) {
  const int strips_y = t.rows / kRows, strips = strips_y * (t.columns / kStrip);
  const int lane = threadIdx.x % 32;
  bool active = false;
  if (lane < strips) {
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kStrip; ++j) {
        const int row = lane % strips_y * kRows + i, column = lane / strips_y * kStrip + j;
        if (row < tile.rows && column < tile.columns)
          active |= row_of<true>(plane, tile, tile.y + row, tile.x + column) >= 0;
      }
    }
  }
  return __ballot_sync(0xffffffffu, active);
}

// The position of the n-th set bit, with n < popc(bits).
__device__ inline int nth_bit(unsigned bits, int n) {
  for (; n > 0; --n) bits &= bits - 1;
  return __ffs(static_cast<int>(bits)) - 1;
}

}  // namespace cnv2
