// The CUDA implementations of the depthwise convolution's operators: dwconv, dwconv_mma and dwconv_layer_norm.
#include "cuda/dwconv/dwconv.h"

#include <tuple>
#include <utility>

#include "cuda/partial_sums/partial_sums.h"
#include "cuda_scope.h"
#include "dwconv_check.h"
#include "groups.h"

namespace cnv2 {
namespace {

// Refuses what the tensor cores' kernels do not take. Needs a CudaScope around it.
void check_mma(const DwconvCheck& check, const DwconvPlane& plane) {
  check.need(
      takes_mma(*dtype_of(check.x), check.x.size(1), plane.map == nullptr),
      "the tensor cores' kernels take 16-bit activations of a dense plane whose C is a multiple of 8, on compute "
      "capability 8.0 and newer");
}

Tensor forward(const DwconvCheck& check, const std::optional<Tensor>& bias, int64_t h, int64_t w, bool mma) {
  DwconvForward p = forward_params(check, bias, h, w);
  const CudaScope scope(check.x);
  if (mma) check_mma(check, p.plane);
  Tensor y = new_contiguous(check.x);
  p.y = y.mutable_data_ptr();
  check_cuda(launch_dwconv(p, mma, scope.stream()));
  return y;
}

Tensor dwconv_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, int64_t h, int64_t w,
                  const std::optional<Tensor>& map) {
  return forward({"dwconv_fwd", x, kernel, map}, bias, h, w, false);
}

Tensor dwconv_mma_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, int64_t h, int64_t w,
                      const std::optional<Tensor>& map) {
  return forward({"dwconv_mma_fwd", x, kernel, map}, bias, h, w, true);
}

// dx [T, C] (empty if not wanted) and float32 [50, C] (empty if not wanted).
std::tuple<Tensor, Tensor> backward(const DwconvCheck& check, const Tensor& dy, bool wants_dx, bool wants_dparams,
                                    int64_t h, int64_t w, bool mma) {
  const Tensor& x = check.x;
  DwconvBackward p = backward_params(check, dy, h, w);
  const CudaScope scope(x);
  if (mma) check_mma(check, p.plane);
  Tensor dx = empty(x, {wants_dx ? x.size(0) : 0, p.c}, x.scalar_type());
  Tensor dparams = floats(x, {wants_dparams ? kDwconvSums : 0, p.c});
  p.dx = wants_dx ? dx.mutable_data_ptr() : nullptr;
  int64_t blocks = 0;
  if (wants_dparams) check_cuda(dwconv_backward_blocks(p, mma, &blocks));
  Tensor partial = floats(x, {blocks, kDwconvSums, p.c});
  p.partial = float_data(partial);
  check_cuda(launch_dwconv_backward(p, mma, blocks, scope.stream()));
  if (wants_dparams) {
    SumJobs jobs{};
    jobs.add(p.partial, float_data(dparams), blocks, kDwconvSums * p.c);
    check_cuda(launch_sums(jobs, scope.stream()));
  }
  return {std::move(dx), std::move(dparams)};
}

std::tuple<Tensor, Tensor> dwconv_bwd(const Tensor& dy, const Tensor& x, const Tensor& kernel, bool wants_dx,
                                      bool wants_dparams, int64_t h, int64_t w, const std::optional<Tensor>& map) {
  return backward({"dwconv_bwd", x, kernel, map}, dy, wants_dx, wants_dparams, h, w, false);
}

std::tuple<Tensor, Tensor> dwconv_mma_bwd(const Tensor& dy, const Tensor& x, const Tensor& kernel, bool wants_dx,
                                          bool wants_dparams, int64_t h, int64_t w, const std::optional<Tensor>& map) {
  return backward({"dwconv_mma_bwd", x, kernel, map}, dy, wants_dx, wants_dparams, h, w, true);
}

Tensor dwconv_layer_norm_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                             const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                             const std::optional<Tensor>& map) {
  DwconvForward p = forward_params({"dwconv_layer_norm_fwd", x, kernel, map}, bias, ln_weight, ln_bias, eps, h, w);
  Tensor y = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  const CudaScope scope(x);
  bool needs_z = false;
  check_cuda(launch_dwconv_layer_norm(p, x.size(0), scope.stream(), &needs_z));
  if (needs_z) {
    Tensor z = new_contiguous(x);
    p.z = z.mutable_data_ptr();
    check_cuda(launch_dwconv_layer_norm(p, x.size(0), scope.stream(), &needs_z));
  }
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
  const CudaScope scope(x);
  bool needs_z = false;
  check_cuda(launch_dwconv_layer_norm(p, x.size(0), scope.stream(), &needs_z));
  return {std::move(y), std::move(z)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("dwconv_fwd", TORCH_BOX(&cnv2::dwconv_fwd));
  m.impl("dwconv_bwd", TORCH_BOX(&cnv2::dwconv_bwd));
  m.impl("dwconv_mma_fwd", TORCH_BOX(&cnv2::dwconv_mma_fwd));
  m.impl("dwconv_mma_bwd", TORCH_BOX(&cnv2::dwconv_mma_bwd));
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd));
  m.impl("dwconv_layer_norm_fwd_train", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train));
}
