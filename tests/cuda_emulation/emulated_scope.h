// What csrc/torch/cuda_scope.h declares, for operators of CPU tensors.
#pragma once

#include <stdexcept>
#include <string>

#include "tensor_utils.h"

#define CNV2_CUDA_KEY CPU

namespace cnv2 {

struct CudaScope {
  explicit CudaScope(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error("CUDA error " + std::to_string(static_cast<int>(error)));
}

}  // namespace cnv2
