// The CPU implementations of the depthwise convolution's operators: dwconv and dwconv_layer_norm.
#include "cpu/dwconv/run.h"

#include <tuple>
#include <utility>

#include "dwconv_check.h"
#include "parallel_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

Tensor dwconv_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, int64_t h, int64_t w,
                  const std::optional<Tensor>& map) {
  DwconvForward p = forward_params({"dwconv_fwd", x, kernel, map}, bias, h, w);
  Tensor y = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  run_dwconv(p, torch_parallel());
  return y;
}

// dx [T, C] (empty if not wanted) and float32 [50, C] (empty if not wanted).
std::tuple<Tensor, Tensor> dwconv_bwd(const Tensor& dy, const Tensor& x, const Tensor& kernel, bool wants_dx,
                                      bool wants_dparams, int64_t h, int64_t w, const std::optional<Tensor>& map) {
  DwconvBackward p = backward_params({"dwconv_bwd", x, kernel, map}, dy, h, w);
  Tensor dx = wants_dx ? new_contiguous(x) : empty(x, {0, x.size(1)}, x.scalar_type());
  Tensor dparams = floats(x, {wants_dparams ? kDwconvSums : 0, x.size(1)});
  if (wants_dx) {
    p.dx = dx.mutable_data_ptr();
    run_dwconv(input_gradient(p), torch_parallel_in(true));
  }
  if (wants_dparams) {
    Tensor partial = floats(x, {dwconv_partial_floats(p)});
    p.partial = float_data(partial);
    run_dwconv_sums(p, float_data(dparams), torch_parallel_in(true));
  }
  return {std::move(dx), std::move(dparams)};
}

Tensor dwconv_layer_norm_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                             const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                             const std::optional<Tensor>& map) {
  DwconvForward p = forward_params({"dwconv_layer_norm_fwd", x, kernel, map}, bias, ln_weight, ln_bias, eps, h, w);
  Tensor y = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  run_dwconv(p, torch_parallel_in(false));
  return y;
}

std::tuple<Tensor, Tensor> dwconv_layer_norm_fwd_train(const Tensor& x, const Tensor& kernel,
                                                       const std::optional<Tensor>& bias, const Tensor& ln_weight,
                                                       const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                                                       const std::optional<Tensor>& map) {
  DwconvForward p =
      forward_params({"dwconv_layer_norm_fwd_train", x, kernel, map}, bias, ln_weight, ln_bias, eps, h, w);
  Tensor y = new_contiguous(x), z = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  p.z = z.mutable_data_ptr();
  run_dwconv(p, torch_parallel_in(true));
  return {std::move(y), std::move(z)};
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::dwconv_fwd>("dwconv_fwd");
  m.add<&cnv2::dwconv_bwd>("dwconv_bwd");
  m.add<&cnv2::dwconv_layer_norm_fwd>("dwconv_layer_norm_fwd");
  m.add<&cnv2::dwconv_layer_norm_fwd_train>("dwconv_layer_norm_fwd_train");
}
