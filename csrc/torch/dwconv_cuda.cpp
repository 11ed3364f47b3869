// The CUDA implementations of the depthwise convolution's operators: sparse_dwconv and dwconv_layer_norm.
#include "cuda/dwconv/dwconv.h"

#include <tuple>
#include <utility>

#include "cuda/partial_sums/partial_sums.h"
#include "cuda_scope.h"

namespace cnv2 {
namespace {

// Refuses what the kernels cannot run. `x` [T, C] (and `dy`, if given), `kernel` [49, C] float32, `vectors` [C]; for
// sparse planes `map` [N, H, W] int32.
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
    need(kernel.dim() == 2 && kernel.size(0) == 49 && kernel.size(1) == x.size(1) && kernel.is_contiguous() &&
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

DwconvForward forward_params(const DwconvCheck& check, const std::optional<Tensor>& bias, int64_t h, int64_t w) {
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
  const DwconvCheck check{"sparse_dwconv_bwd", x, kernel, map};
  const DwconvPlane plane = check.plane(h, w);
  check.need(dy.dim() == 2 && dy.size(0) == x.size(0) && dy.size(1) == x.size(1) && dy.is_contiguous() &&
                 dy.scalar_type() == x.scalar_type() && dy.device() == x.device(),
             "dy must be like x");
  const CudaScope scope(x);
  Tensor dx = of_input ? new_contiguous(x) : torch::stable::new_empty(x, {0, x.size(1)});
  Tensor dparams = torch::stable::new_empty(x, {of_params ? 50 : 0, x.size(1)}, ScalarType::Float);
  DwconvBackward p{};
  p.plane = plane;
  p.dy = dy.const_data_ptr();
  p.x = x.const_data_ptr();
  p.taps = static_cast<const float*>(kernel.const_data_ptr());
  p.dx = of_input ? dx.mutable_data_ptr() : nullptr;
  p.c = x.size(1);
  p.dtype = *dtype_of(x);
  int64_t mma_blocks = 0;
  if (mma && of_params) check_cuda(dwconv_taps_mma_blocks(p, &mma_blocks));
  if (of_input && (!of_params || mma_blocks > 0)) {  // not in one pass: the input's gradient is a convolution
    DwconvForward convolution = forward_params(check, std::nullopt, h, w);
    convolution.x = p.dy;
    convolution.y = p.dx;
    convolution.flipped = true;
    convolve(convolution, mma, scope);
  }
  if (of_params) {
    int64_t blocks = mma_blocks;
    if (mma_blocks == 0) check_cuda(dwconv_backward_blocks(p, &blocks));
    Tensor partial = torch::stable::new_empty(x, {blocks, 50, p.c}, ScalarType::Float);
    p.partial = static_cast<float*>(partial.mutable_data_ptr());
    check_cuda(mma_blocks > 0 ? launch_dwconv_taps_mma(p, scope.stream())
                              : launch_dwconv_backward(p, blocks, scope.stream()));
    check_cuda(launch_sum_partials(p.partial, static_cast<float*>(dparams.mutable_data_ptr()), blocks, 50 * p.c,
                                   scope.stream()));
  }
  return {std::move(dx), std::move(dparams)};
}

// y [T, C], and LayerNorm's input z if `train`.
std::tuple<Tensor, std::optional<Tensor>> convolve_and_normalise(const DwconvCheck& check,
                                                                 const std::optional<Tensor>& bias,
                                                                 const Tensor& ln_weight, const Tensor& ln_bias,
                                                                 double eps, int64_t h, int64_t w, bool train) {
  const Tensor& x = check.x;
  DwconvForward p = forward_params(check, bias, h, w);
  check.vector(ln_weight);
  check.vector(ln_bias);
  const ScalarType type = ln_weight.scalar_type();
  check.need((type == ScalarType::Float || type == x.scalar_type()) && ln_bias.scalar_type() == type &&
                 (!bias.has_value() || bias->scalar_type() == type),
             "the parameters must all have x's dtype, or all be float32");
  Tensor y = new_contiguous(x);
  std::optional<Tensor> z;
  if (train) z = new_contiguous(x);
  p.param_dtype = *dtype_of(ln_weight);
  p.ln_weight = ln_weight.const_data_ptr();
  p.ln_bias = ln_bias.const_data_ptr();
  p.eps = static_cast<float>(eps);
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
