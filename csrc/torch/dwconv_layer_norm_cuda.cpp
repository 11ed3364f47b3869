// The CUDA implementations of dwconv_layer_norm's operators.
#include "cuda/dwconv_layer_norm/dwconv_layer_norm.h"

#include "cuda_scope.h"
#include "dwconv_layer_norm.h"

namespace cnv2 {
namespace {

void run_dwconv_layer_norm_cuda(const Tensor& x, const DwconvLayerNormParams& params) {
  const CudaScope scope(x);
  check_cuda(launch_dwconv_layer_norm(params, scope.stream()));
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd<cnv2::run_dwconv_layer_norm_cuda>));
  m.impl("dwconv_layer_norm_fwd_train",
         TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train<cnv2::run_dwconv_layer_norm_cuda>));
}
