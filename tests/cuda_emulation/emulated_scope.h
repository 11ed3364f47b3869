// What csrc/torch/cuda_scope.h declares, for operators of CPU tensors.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <array>
#include <stdexcept>
#include <string>

#include "tensor_utils.h"

#define CNV2_CUDA_KEY CPU
#ifndef CNV2_PRODUCTS
#define CNV2_PRODUCTS(name) aoti_torch_cpu_##name
#endif

namespace cnv2 {

struct CudaScope {
  explicit CudaScope(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error("CUDA error " + std::to_string(static_cast<int>(error)));
}

inline Tensor in_float32(const Tensor& t) {
  using torch::stable::detail::from;
  std::array<StableIValue, 5> stack{from(t), from(ScalarType::Float), from(false), from(false), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::to", "dtype", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The framework has it on GPUs alone.
inline Tensor product_in_float32(const Tensor& a, const Tensor& b) {
  Tensor out = floats(a, {a.size(0), b.size(1)});
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), in_float32(a).get(), in_float32(b).get()));
  return out;
}

}  // namespace cnv2
