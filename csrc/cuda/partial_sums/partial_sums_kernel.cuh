// A block adds up 32 columns of a job, a warp every kth part of them, so that each load is 128 adjacent bytes.
#pragma once

#include "common/dwconv.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/vector.cuh"
#include "partial_sums.h"

namespace cnv2 {

constexpr int kSumsMaxWarps = 16;

// The jobs with the block that each begins with, and the number of blocks behind them.
struct SumGrid {
  SumJobs jobs;
  int first[kSumJobs + 1];
};

// The warps that share a job. One that has eight parts or more keeps eight loads under way.
inline __host__ __device__ int sum_warps(int64_t parts) {
  const int64_t wanted = parts / 8 < kSumsMaxWarps ? parts / 8 : kSumsMaxWarps;
  return wanted > 1 ? static_cast<int>(wanted) : 1;
}

// Where a column's sum goes.
__device__ inline int64_t place_of(const SumJob& job, int64_t column) {
  const int64_t c = job.channels_of_taps;
  if (c == 0) return column;
  const int64_t tap = column / c, channel = column - tap * c;
  return channel * kDwconvTaps + tap % kDwconvSide * kDwconvSide + tap / kDwconvSide;
}

// Shared memory holds a float for each thread.
__global__ void __launch_bounds__(kSumsMaxWarps* kWarp) sums_kernel(const SumGrid grid) {
  CNV2_SHARED(shared);
  float* const sums = reinterpret_cast<float*>(shared);  // [warps, 32]
  int number = 0;
  while (static_cast<int>(blockIdx.x) >= grid.first[number + 1]) ++number;
  const SumJob& job = grid.jobs.job[number];
  const float* __restrict__ const partial = job.partial;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = sum_warps(job.parts);
  const int64_t column = int64_t{static_cast<int>(blockIdx.x) - grid.first[number]} * kWarp + lane;
  float sum = 0.0f;
  if (column < job.columns && warp < warps) {
#pragma unroll 8
    for (int64_t part = warp; part < job.parts; part += warps) sum += partial[part * job.pitch + column];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || column >= job.columns) return;
  for (int w = 1; w < warps; ++w) sum += sums[w * kWarp + lane];
  const int64_t at = place_of(job, column);
  if (job.dtype == DType::kFloat32)
    static_cast<float*>(job.out)[at] = sum;
  else if (job.dtype == DType::kBFloat16)
    store_float(static_cast<BFloat16*>(job.out) + at, sum);
  else
    store_float(static_cast<Half*>(job.out) + at, sum);
}

}  // namespace cnv2
