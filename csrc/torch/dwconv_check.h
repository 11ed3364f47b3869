// What the depthwise convolution's operators share on every device: argument checks and the kernels' parameters.
#pragma once

#include "common/dwconv.h"
#include "tensor_utils.h"

namespace cnv2 {

// Refuses what the kernels cannot run. `x` [T, C], `kernel` [49, C] float32, vectors [C]; for sparse planes `map`
// [N, H, W] int32.
struct DwconvCheck {
  const char* op;
  const Tensor& x;
  const Tensor& kernel;
  const std::optional<Tensor>& map;

  void need(bool ok, const char* wants) const {
    if (!ok) refuse(op, wants, describe("x", x), describe("kernel", kernel), describe("site_map", map));
  }

  DwconvPlane plane(int64_t h, int64_t w) const {
    need(x.dim() == 2 && x.size(1) >= 1 && x.is_contiguous(), "x must be contiguous rows [T, C]");
    need(kernel.dim() == 2 && kernel.size(0) == kDwconvTaps && kernel.size(1) == x.size(1) && kernel.is_contiguous() &&
             kernel.scalar_type() == ScalarType::Float,
         "kernel must be contiguous float32 [49, C]");
    need(dtype_of(x).has_value(), "x must be float32, bfloat16 or float16");
    need(kernel.device() == x.device(), "all tensors must be on one device");
    need(h >= 1 && w >= 1 && h * w < (int64_t{1} << 31), "the plane must have from 1 to 2^31 - 1 sites");
    need(x.size(1) < (int64_t{1} << 24), "there must be fewer than 2^24 channels");
    DwconvPlane plane{0, static_cast<int>(h), static_cast<int>(w), nullptr};
    if (map.has_value()) {
      need(map->dim() == 3 && map->size(1) == h && map->size(2) == w && map->is_contiguous() &&
               map->scalar_type() == ScalarType::Int && map->device() == x.device(),
           "site_map must be contiguous int32 [N, H, W]");
      plane.n = map->size(0);
      plane.map = static_cast<const int*>(map->const_data_ptr());
    } else {
      need(x.size(0) % (h * w) == 0, "T must be a multiple of H * W");
      plane.n = x.size(0) / (h * w);
    }
    return plane;
  }

  void vector(const Tensor& v) const {
    const bool ok = v.dim() == 1 && v.size(0) == x.size(1) && v.is_contiguous() && v.device() == x.device();
    if (!ok) refuse(op, "bias, ln_weight and ln_bias must be contiguous [C]", describe("x", x), describe("got", v));
  }
};

inline DwconvForward forward_params(const DwconvCheck& check, const std::optional<Tensor>& bias, int64_t h, int64_t w) {
  DwconvForward p{};
  p.plane = check.plane(h, w);
  p.x = check.x.const_data_ptr();
  p.taps = static_cast<const float*>(check.kernel.const_data_ptr());
  p.c = check.x.size(1);
  p.dtype = p.param_dtype = *dtype_of(check.x);
  if (bias.has_value()) {
    check.vector(*bias);
    check.need(dtype_of(*bias).has_value(), "the parameters must be float32 or have x's dtype");
    p.bias = bias->const_data_ptr();
    p.param_dtype = *dtype_of(*bias);
  }
  return p;
}

// With LayerNorm.
inline DwconvForward forward_params(const DwconvCheck& check, const std::optional<Tensor>& bias,
                                    const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w) {
  DwconvForward p = forward_params(check, bias, h, w);
  check.vector(ln_weight);
  check.vector(ln_bias);
  const ScalarType type = ln_weight.scalar_type();
  check.need((type == ScalarType::Float || type == check.x.scalar_type()) && ln_bias.scalar_type() == type &&
                 (!bias.has_value() || bias->scalar_type() == type),
             "the parameters must all have x's dtype, or all be float32");
  p.param_dtype = *dtype_of(ln_weight);
  p.ln_weight = ln_weight.const_data_ptr();
  p.ln_bias = ln_bias.const_data_ptr();
  p.eps = static_cast<float>(eps);
  return p;
}

inline DwconvBackward backward_params(const DwconvCheck& check, const Tensor& dy, int64_t h, int64_t w) {
  const Tensor& x = check.x;
  DwconvBackward p{};
  p.plane = check.plane(h, w);
  check.need(dy.dim() == 2 && dy.size(0) == x.size(0) && dy.size(1) == x.size(1) && dy.is_contiguous() &&
                 dy.scalar_type() == x.scalar_type() && dy.device() == x.device(),
             "dy must be like x");
  p.dy = dy.const_data_ptr();
  p.x = x.const_data_ptr();
  p.taps = static_cast<const float*>(check.kernel.const_data_ptr());
  p.c = x.size(1);
  p.dtype = *dtype_of(x);
  return p;
}

}  // namespace cnv2
