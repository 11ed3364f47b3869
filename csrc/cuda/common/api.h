// The CUDA runtime's types and calls, for launchers and what calls them, and what launchers ask of a device.
#pragma once

#include <cstdint>

#include "cuda/common/platform.cuh"

namespace cnv2 {

struct CudaDevice {
  int processors;        // streaming multiprocessors
  int64_t shared_bytes;  // the most that one block may have
  int64_t shared_bytes_per_processor;
  int capability;  // 90 for sm_90
};

// Describes the current device in `out`.
inline cudaError_t cuda_device(CudaDevice* out) {
  int device = 0, major = 0, minor = 0, bytes = 0, all = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto ask = [&](int* value, cudaDeviceAttr what) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, what, device);
  };
  ask(&out->processors, cudaDevAttrMultiProcessorCount);
  ask(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  ask(&major, cudaDevAttrComputeCapabilityMajor);
  ask(&minor, cudaDevAttrComputeCapabilityMinor);
  out->shared_bytes = bytes;
  out->shared_bytes_per_processor = all;
  out->capability = 10 * major + minor;
  return error;
}

}  // namespace cnv2
