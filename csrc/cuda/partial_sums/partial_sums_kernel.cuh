// A block adds up 32 columns, a warp every kth part of them, so that each load is 128 adjacent bytes.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"

namespace cnv2 {

constexpr int kSumPartialsMaxWarps = 16;

// Shared memory holds a float for each thread.
__global__ void __launch_bounds__(kSumPartialsMaxWarps* kWarp)
    sum_partials_kernel(const float* __restrict__ partial,  // [parts, columns]
                        float* __restrict__ out,            // [columns]
                        const int64_t parts, const int64_t columns) {
  CNV2_SHARED(shared);
  float* const sums = reinterpret_cast<float*>(shared);  // [warps, 32]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  float sum = 0.0f;
  if (column < columns) {
#pragma unroll 8
    for (int64_t part = warp; part < parts; part += warps) sum += partial[part * columns + column];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int w = 1; w < warps; ++w) sum += sums[w * kWarp + lane];
  out[column] = sum;
}

}  // namespace cnv2
