// How every kernel is started. Included by .cu files and kernels.
#pragma once

#include <map>
#include <mutex>
#include <utility>

#include "cuda/common/api.h"

namespace cnv2 {

// Lets a kernel have so much shared memory, if the runtime has not been told so before.
inline cudaError_t allow_shared(const void* kernel, int bytes) {
  static std::mutex one_at_a_time;
  static std::map<std::pair<const void*, int>, int> allowed;  // by kernel and device
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  int& most = allowed[{kernel, device}];
  if (bytes <= most) return cudaSuccess;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) most = bytes;
  return error;
}

// Starts `kernel` on a grid of blocks of `threads` threads; an empty grid is no launch.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, unsigned threads, int64_t shared_bytes, cudaStream_t stream,
                   const A&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  constexpr int64_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error = allow_shared(reinterpret_cast<const void*>(kernel), static_cast<int>(shared_bytes));
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
