// Sums over the threads of a block in a fixed order, so that every run gives the same bits.
#pragma once

namespace cnv2 {

constexpr int kWarp = 32;

// Adds up kCount values over all threads of the block; every thread gets the totals. `partial`: shared memory of
// kCount * (blockDim.x / 32) floats. blockDim.x must be a multiple of 32. All threads must call it.
template <int kCount>
__device__ inline void block_sum(float (&value)[kCount], float* partial) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int i = 0; i < kCount; ++i) {
    for (int step = kWarp / 2; step > 0; step /= 2) value[i] += __shfl_xor_sync(0xffffffffu, value[i], step);
  }
  __syncthreads();  // `partial` may still be read from an earlier call
  if (lane == 0) {
    for (int i = 0; i < kCount; ++i) partial[i * warps + warp] = value[i];
  }
  __syncthreads();
  for (int i = 0; i < kCount; ++i) {
    float total = 0.0f;
    for (int w = 0; w < warps; ++w) total += partial[i * warps + w];
    value[i] = total;
  }
}

}  // namespace cnv2
