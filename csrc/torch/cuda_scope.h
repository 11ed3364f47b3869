// What CUDA operators take from the framework: the device and stream to run on, the dispatch key to be registered
// under, and matrix products.
#pragma once

#include "cuda/common/api.h"
#include "tensor_utils.h"

#ifdef CNV2_CUDA_EMULATION
#include "emulated_scope.h"  // the same for the tests' emulation, whose tensors are the CPU's
#else

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>

#define CNV2_CUDA_KEY CUDA
#define CNV2_PRODUCTS(name) aoti_torch_cuda_##name

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

// The product of 16-bit matrices, which the framework has under this name alone.
inline Tensor product_in_float32(const Tensor& a, const Tensor& b) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(ScalarType::Float)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "dtype", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace cnv2

#endif
