// Runs CUDA kernels on the CPU. Kernels and launchers compile as plain C++ with -DCNV2_CUDA_EMULATION and this folder
// on the include path; emulated_block.h says what is checked.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "emulated_block.h"
#include "emulated_types.h"

namespace cuda_emulation {

struct Device {  // an H100, for the launchers' choices
  int processors = 132;
  int64_t shared_bytes = 227 * 1024, shared_bytes_per_processor = 228 * 1024;
  int capability = 90;
};
inline Device device;

// kernel(): the call of the kernel with its arguments, as every thread makes it.
inline cudaError_t launch(dim3 grid, unsigned threads, int64_t shared_bytes, const std::function<void()>& kernel) {
  const bool fits = grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 && threads > 0 && threads <= 1024;
  if (!fits || threads % 32 != 0 || shared_bytes < 0 || shared_bytes > device.shared_bytes)
    return cudaErrorInvalidValue;
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  gridDim = grid;
  blockDim = dim3(threads);
  running.prepare(threads, shared_bytes, kernel);
  const uint64_t plane = uint64_t{grid.x} * grid.y, blocks = plane * grid.z;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t number = block_number(i, blocks);
    blockIdx.x = static_cast<unsigned>(number % grid.x);
    blockIdx.y = static_cast<unsigned>(number % plane / grid.x);
    blockIdx.z = static_cast<unsigned>(number / plane);
    running.run(number);
  }
  running.release();
  return cudaSuccess;
}

}  // namespace cuda_emulation

inline cudaError_t cudaGetDevice(int* number) { return *number = 0, cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  const cuda_emulation::Device& device = cuda_emulation::device;
  switch (what) {
    case cudaDevAttrMultiProcessorCount:
      *value = device.processors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(device.shared_bytes);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(device.shared_bytes_per_processor);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = device.capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device.capability % 10;
      break;
  }
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), const A&... arguments) {
  return cuda_emulation::launch(config->gridDim, config->blockDim.x, static_cast<int64_t>(config->dynamicSmemBytes),
                                [&] { kernel(arguments...); });
}

#include "emulated_instructions.h"
#include "emulated_intrinsics.h"
