// A thread takes some elements of the taps or 8 of a matrix.
#pragma once

#include "common/dwconv.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/vector.cuh"
#include "weights.h"

namespace cnv2 {

constexpr int kCastThreads = 256, kCastVector = 8;

// The blocks of the taps, then of each matrix.
struct CastGrid {
  int taps, matrix[2];
};

template <class T>
__device__ inline void cast_vector(const BlockMatrix& m, bool aligned, int64_t at) {
  const float* __restrict__ const from = m.from;
  T* __restrict__ const to = static_cast<T*>(m.to);
  if (aligned && at + kCastVector <= m.count) {
    float low[4], high[4], all[kCastVector];
    load_vector<4>(from + at, low);
    load_vector<4>(from + at + 4, high);
#pragma unroll
    for (int i = 0; i < 4; ++i) all[i] = low[i], all[4 + i] = high[i];
    store_vector<kCastVector>(to + at, all);
    return;
  }
  for (int i = 0; i < kCastVector && at + i < m.count; ++i) store_float(to + at + i, from[at + i]);
}

template <class T>
__global__ void __launch_bounds__(kCastThreads) block_casts_kernel(const BlockCasts p, const CastGrid grid) {
  int block = static_cast<int>(blockIdx.x);
  if (block < grid.taps) {
    const int64_t i = int64_t{block} * kCastThreads + threadIdx.x;  // tap * C + channel
    if (i >= kDwconvTaps * p.taps.c) return;
    const int64_t tap = i / p.taps.c, channel = i - tap * p.taps.c;
    const int64_t at = channel * kDwconvTaps + tap % kDwconvSide * kDwconvSide + tap / kDwconvSide;
    p.taps.to[i] = load_param(p.taps.from, p.taps.dtype, p.taps.as_rows ? i : at);
    return;
  }
  block -= grid.taps;
  const bool first = block < grid.matrix[0];
  block -= first ? 0 : grid.matrix[0];
  const BlockMatrix m = first ? p.matrix[0] : p.matrix[1];
  const bool aligned = reinterpret_cast<uintptr_t>(m.from) % 16 == 0;
  cast_vector<T>(m, aligned, (int64_t{block} * kCastThreads + threadIdx.x) * kCastVector);
}

}  // namespace cnv2
