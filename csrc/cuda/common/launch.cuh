// How every kernel is started, and the dynamic shared memory that every kernel uses. Included by .cu files and kernels.
#pragma once

#include "cuda/common/api.h"
#include "common/dtype.h"

// `CNV2_SHARED(name);` in a kernel: its dynamic shared memory, as unsigned char*, aligned to 16 bytes. There is no
// other: the emulation fills it with poison for each block and guards its ends.
#ifdef CNV2_CUDA_EMULATION
#define CNV2_SHARED(name) unsigned char* const name = cuda_emulation::shared_memory()
#else
#define CNV2_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace cnv2 {

// Starts `kernel` on a grid of blocks of `threads` threads; an empty grid is no launch.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, unsigned threads, int64_t shared_bytes, cudaStream_t stream,
                   const A&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#ifdef CNV2_CUDA_EMULATION
  (void)stream;
  return cuda_emulation::launch(grid, threads, shared_bytes, [&] { kernel(args...); });
#else
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
#endif
}

// Calls run(T{}) with the storage type T that `dtype` names.
template <class F>
cudaError_t with_dtype(DType dtype, F&& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Half{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnv2
