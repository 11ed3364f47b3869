// How every kernel is started. Included by .cu files and kernels.
#pragma once

#include "cuda/common/api.h"

namespace cnv2 {

// Starts `kernel` on a grid of blocks of `threads` threads; an empty grid is no launch.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, unsigned threads, int64_t shared_bytes, cudaStream_t stream,
                   const A&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  constexpr int64_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace cnv2
