// The CUDA implementations of the operators whose schemas convnextv2_fast/ops/*/native.py defines.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/dwconv_layer_norm/dwconv_layer_norm.h"
#include "dwconv_layer_norm.h"

namespace cnv2 {
namespace {

void run_dwconv_layer_norm_cuda(const Tensor& x, const DwconvLayerNormParams& params) {
  const auto device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  STD_CUDA_CHECK(launch_dwconv_layer_norm(params, static_cast<cudaStream_t>(stream)));
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CUDA, m) {
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd<cnv2::run_dwconv_layer_norm_cuda>));
  m.impl("dwconv_layer_norm_fwd_train",
         TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train<cnv2::run_dwconv_layer_norm_cuda>));
}
