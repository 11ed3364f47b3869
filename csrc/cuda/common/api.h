// The CUDA runtime's types and calls; in the tests' emulation, stand-ins for them. For launchers and what calls them.
#pragma once

#ifdef CNV2_CUDA_EMULATION
#include "cuda_emulation.h"
#else
#include <cuda_runtime_api.h>
#endif

#include <cstdint>

namespace cnv2 {

struct CudaDevice {
  int processors;        // streaming multiprocessors
  int64_t shared_bytes;  // the most that one block may have
  int64_t shared_bytes_per_processor;
  int capability;  // 90 for sm_90
};

// Of the current device.
inline cudaError_t cuda_device(CudaDevice* out) {
#ifdef CNV2_CUDA_EMULATION
  *out = {cuda_emulation::device.processors, cuda_emulation::device.shared_bytes,
          cuda_emulation::device.shared_bytes_per_processor, cuda_emulation::device.capability};
  return cudaSuccess;
#else
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
#endif
}

}  // namespace cnv2
