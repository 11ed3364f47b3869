// The device and stream that a CUDA operator runs on, and the dispatch key its implementations are registered under.
#pragma once

#include "cuda/common/api.h"
#include "tensor_utils.h"

#ifdef CNV2_CUDA_EMULATION
#include "emulated_scope.h"  // the same for the tests' emulation, whose tensors are the CPU's
#else

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#define CNV2_CUDA_KEY CUDA

namespace cnv2 {

// While it lives, x's device is the current one.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& x) : guard_(x.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream_));
  }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_); }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

inline void check_cuda(cudaError_t error) { STD_CUDA_CHECK(error); }

}  // namespace cnv2

#endif
