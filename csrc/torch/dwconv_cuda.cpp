// The CUDA implementations of the depthwise convolution's operators: sparse_dwconv and dwconv_layer_norm.
#include "cuda/dwconv/dwconv.h"

#include <tuple>
#include <utility>

#include "cuda/partial_sums/partial_sums.h"
#include "cuda_scope.h"
#include "dwconv_check.h"

namespace cnv2 {
namespace {

// Without LayerNorm; `mma`: on the tensor cores, if they take the call.
void convolve(const DwconvForward& p, bool mma, const CudaScope& scope) {
  bool ran = false;
  if (mma) check_cuda(launch_dwconv_forward_mma(p, scope.stream(), &ran));
  if (!ran) check_cuda(launch_dwconv_forward(p, scope.stream(), &ran));
}

Tensor sparse_dwconv_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, int64_t h, int64_t w,
                         const std::optional<Tensor>&, const std::optional<Tensor>& map, bool mma) {
  DwconvForward p = forward_params({"sparse_dwconv_fwd", x, kernel, map}, bias, h, w);
  Tensor y = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  convolve(p, mma, CudaScope(x));
  return y;
}

// dx [T, C] (empty if not wanted) and float32 [50, C] (empty if not wanted).
std::tuple<Tensor, Tensor> sparse_dwconv_bwd(const Tensor& dy, const Tensor& x, const Tensor& kernel, bool of_input,
                                             bool of_params, int64_t h, int64_t w, const std::optional<Tensor>&,
                                             const std::optional<Tensor>& map, bool mma) {
  DwconvBackward p = backward_params({"sparse_dwconv_bwd", x, kernel, map}, dy, h, w);
  const CudaScope scope(x);
  Tensor dx = of_input ? new_contiguous(x) : torch::stable::new_empty(x, {0, x.size(1)});
  Tensor dparams = torch::stable::new_empty(x, {of_params ? kDwconvSums : 0, x.size(1)}, ScalarType::Float);
  p.dx = of_input ? dx.mutable_data_ptr() : nullptr;
  int64_t mma_blocks = 0;
  if (mma && of_params) check_cuda(dwconv_taps_mma_blocks(p, &mma_blocks));
  if (of_input && (!of_params || mma_blocks > 0)) {  // not in one pass: the input's gradient is a convolution
    convolve(input_gradient(p), mma, scope);
  }
  if (of_params) {
    int64_t blocks = mma_blocks;
    if (mma_blocks == 0) check_cuda(dwconv_backward_blocks(p, &blocks));
    Tensor partial = torch::stable::new_empty(x, {blocks, kDwconvSums, p.c}, ScalarType::Float);
    p.partial = static_cast<float*>(partial.mutable_data_ptr());
    check_cuda(mma_blocks > 0 ? launch_dwconv_taps_mma(p, scope.stream())
                              : launch_dwconv_backward(p, blocks, scope.stream()));
    check_cuda(launch_sum_partials(p.partial, static_cast<float*>(dparams.mutable_data_ptr()), blocks,
                                   kDwconvSums * p.c, scope.stream()));
  }
  return {std::move(dx), std::move(dparams)};
}

// y [T, C], and LayerNorm's input z if `train`.
std::tuple<Tensor, std::optional<Tensor>> convolve_and_normalise(const DwconvCheck& check,
                                                                 const std::optional<Tensor>& bias,
                                                                 const Tensor& ln_weight, const Tensor& ln_bias,
                                                                 double eps, int64_t h, int64_t w, bool train) {
  const Tensor& x = check.x;
  DwconvForward p = forward_params(check, bias, ln_weight, ln_bias, eps, h, w);
  Tensor y = new_contiguous(x);
  std::optional<Tensor> z;
  if (train) z = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  p.z = train ? z->mutable_data_ptr() : nullptr;
  const CudaScope scope(x);
  bool fused = false;
  check_cuda(launch_dwconv_forward(p, scope.stream(), &fused));
  if (fused) return {std::move(y), std::move(z)};
  // Too wide for one kernel: two, with z between them.
  if (!z.has_value()) z = new_contiguous(x);
  p.z = z->mutable_data_ptr();
  check_cuda(launch_dwconv_then_layer_norm(p, x.size(0), scope.stream()));
  if (!train) z.reset();
  return {std::move(y), std::move(z)};
}

Tensor dwconv_layer_norm_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                             const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                             const std::optional<Tensor>&, const std::optional<Tensor>& map) {
  const DwconvCheck check{"dwconv_layer_norm_fwd", x, kernel, map};
  return std::get<0>(convolve_and_normalise(check, bias, ln_weight, ln_bias, eps, h, w, false));
}

std::tuple<Tensor, Tensor> dwconv_layer_norm_fwd_train(const Tensor& x, const Tensor& kernel,
                                                       const std::optional<Tensor>& bias, const Tensor& ln_weight,
                                                       const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                                                       const std::optional<Tensor>&, const std::optional<Tensor>& map) {
  const DwconvCheck check{"dwconv_layer_norm_fwd_train", x, kernel, map};
  auto [y, z] = convolve_and_normalise(check, bias, ln_weight, ln_bias, eps, h, w, true);
  return {std::move(y), std::move(*z)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("sparse_dwconv_fwd", TORCH_BOX(&cnv2::sparse_dwconv_fwd));
  m.impl("sparse_dwconv_bwd", TORCH_BOX(&cnv2::sparse_dwconv_bwd));
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd));
  m.impl("dwconv_layer_norm_fwd_train", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train));
}
