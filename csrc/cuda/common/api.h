// The CUDA runtime's types and calls, for launchers and what calls them, and what launchers ask of a device.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "cuda/common/platform.cuh"

namespace cnv2 {

struct CudaDevice {
  int processors;        // streaming multiprocessors
  int64_t shared_bytes;  // the most that one block may have
  int64_t shared_bytes_per_processor;
  int capability;  // 90 for sm_90
};

// Asks the runtime.
inline cudaError_t ask_device(int device, CudaDevice* out) {
  int major = 0, minor = 0, bytes = 0, all = 0;
  cudaError_t error = cudaSuccess;
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

// Describes the current device in `out`. Every launch asks; the runtime is asked once for each device.
inline cudaError_t cuda_device(CudaDevice* out) {
  struct Known {
    std::atomic<bool> asked{false};
    CudaDevice device{};
  };
  static Known all[kKnownDevices > 0 ? kKnownDevices : 1];
  static std::mutex one_at_a_time;
  int number = 0;
  cudaError_t error = cudaGetDevice(&number);
  if (error != cudaSuccess) return error;
  if (number >= kKnownDevices) return ask_device(number, out);
  Known& known = all[number];
  if (!known.asked.load(std::memory_order_acquire)) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    CudaDevice device{};
    error = ask_device(number, &device);
    if (error != cudaSuccess) return error;
    if (!known.asked.load(std::memory_order_relaxed)) known.device = device;
    known.asked.store(true, std::memory_order_release);
  }
  *out = known.device;
  return cudaSuccess;
}

}  // namespace cnv2
