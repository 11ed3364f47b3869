// Checks, allocation and argument packing of dwconv_layer_norm, the same on every device.
#pragma once

#include <tuple>
#include <utility>

#include "cnv2/dwconv_layer_norm.h"
#include "tensor_utils.h"

namespace cnv2 {

struct DwconvLayerNormCall {
  DwconvLayerNormParams params;
  Tensor y;
  std::optional<Tensor> z, mean, rstd;  // set together
};

// Refuses what the kernels cannot run, allocates the outputs and fills in the parameters.
// `x` [N, H, W, C], `kernel` [49, C], `bias`, `ln_weight`, `ln_bias` [C]; `train` asks for z, mean and rstd.
inline DwconvLayerNormCall prepare_dwconv_layer_norm(const char* op, const Tensor& x, const Tensor& kernel,
                                                     const std::optional<Tensor>& bias, const Tensor& ln_weight,
                                                     const Tensor& ln_bias, double eps, bool train) {
  const auto need = [&](bool ok, const char* wants) {
    if (ok) return;
    refuse(op, wants, describe("x", x), describe("kernel", kernel), describe("bias", bias),
           describe("ln_weight", ln_weight), describe("ln_bias", ln_bias));
  };
  need(x.dim() == 4, "x must be [N, H, W, C]");
  const int64_t c = x.size(3);
  need(x.size(1) >= 1 && x.size(2) >= 1 && c >= 1, "H, W and C must be at least 1");
  need(kernel.dim() == 2 && kernel.size(0) == kTaps && kernel.size(1) == c, "kernel must be [49, C]");
  const auto is_vector = [&](const Tensor& t) { return t.dim() == 1 && t.size(0) == c; };
  need((!bias.has_value() || is_vector(*bias)) && is_vector(ln_weight) && is_vector(ln_bias),
       "bias, ln_weight and ln_bias must be [C]");
  const auto dtype = dtype_of(x);
  need(dtype.has_value(), "x must be float32, bfloat16 or float16");
  const ScalarType param_type = kernel.scalar_type();
  need((param_type == x.scalar_type() || param_type == ScalarType::Float) && ln_weight.scalar_type() == param_type &&
           ln_bias.scalar_type() == param_type && (!bias.has_value() || bias->scalar_type() == param_type),
       "the parameters must all have x's dtype, or all be float32");
  const auto device = x.device();
  need(kernel.device() == device && ln_weight.device() == device && ln_bias.device() == device &&
           (!bias.has_value() || bias->device() == device),
       "all tensors must be on one device");
  need(x.is_contiguous() && kernel.is_contiguous() && ln_weight.is_contiguous() && ln_bias.is_contiguous() &&
           (!bias.has_value() || bias->is_contiguous()),
       "all tensors must be contiguous");

  DwconvLayerNormCall call{{}, new_contiguous(x), {}, {}, {}};
  DwconvLayerNormParams& p = call.params;
  p.n = x.size(0);
  p.h = x.size(1);
  p.w = x.size(2);
  p.c = c;
  p.x = x.const_data_ptr();
  p.kernel = kernel.const_data_ptr();
  p.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
  p.ln_weight = ln_weight.const_data_ptr();
  p.ln_bias = ln_bias.const_data_ptr();
  p.y = call.y.mutable_data_ptr();
  p.eps = static_cast<float>(eps);
  p.dtype = *dtype;
  p.param_dtype = *dtype_of(kernel);
  if (train) {
    const int64_t pixels = p.n * p.h * p.w;
    call.z = new_contiguous(x);
    call.mean = torch::stable::new_empty(x, {pixels}, ScalarType::Float);
    call.rstd = torch::stable::new_empty(x, {pixels}, ScalarType::Float);
    p.z = call.z->mutable_data_ptr();
    p.mean = static_cast<float*>(call.mean->mutable_data_ptr());
    p.rstd = static_cast<float*>(call.rstd->mutable_data_ptr());
  }
  return call;
}

// The two operators of a device, given the function that computes a call: void run(const Tensor& x, const Params&).
template <void (*kRun)(const Tensor&, const DwconvLayerNormParams&)>
Tensor dwconv_layer_norm_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                             const Tensor& ln_weight, const Tensor& ln_bias, double eps) {
  DwconvLayerNormCall call =
      prepare_dwconv_layer_norm("dwconv_layer_norm_fwd", x, kernel, bias, ln_weight, ln_bias, eps, false);
  if (call.params.n > 0) kRun(x, call.params);
  return std::move(call.y);
}

template <void (*kRun)(const Tensor&, const DwconvLayerNormParams&)>
std::tuple<Tensor, Tensor, Tensor, Tensor> dwconv_layer_norm_fwd_train(const Tensor& x, const Tensor& kernel,
                                                                       const std::optional<Tensor>& bias,
                                                                       const Tensor& ln_weight, const Tensor& ln_bias,
                                                                       double eps) {
  DwconvLayerNormCall call =
      prepare_dwconv_layer_norm("dwconv_layer_norm_fwd_train", x, kernel, bias, ln_weight, ln_bias, eps, true);
  if (call.params.n > 0) kRun(x, call.params);
  return {std::move(call.y), std::move(*call.z), std::move(*call.mean), std::move(*call.rstd)};
}

}  // namespace cnv2
