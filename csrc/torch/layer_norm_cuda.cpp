// The CUDA implementations of layer_norm's operators.
#include "cuda/layer_norm/layer_norm.h"

#include <tuple>
#include <utility>

#include "cuda/partial_sums/partial_sums.h"
#include "cuda_scope.h"
#include "groups.h"

namespace cnv2 {
namespace {

// Refuses what the kernels cannot run; `other`: bias, or dy.
void check_layer_norm(const char* op, const Tensor& x, const Tensor& weight, const Tensor& other) {
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("x", x), describe("weight", weight), describe("and", other));
  };
  need(x.dim() == 2 && x.size(1) >= 1 && x.is_contiguous(), "x must be contiguous rows [T, C]");
  need(x.size(1) <= kLayerNormWidest, "there must be at most 8192 channels");
  need(dtype_of(x).has_value(), "x must be float32, bfloat16 or float16");
  need(weight.dim() == 1 && weight.size(0) == x.size(1) && weight.is_contiguous(), "weight must be contiguous [C]");
  need(weight.scalar_type() == ScalarType::Float || weight.scalar_type() == x.scalar_type(),
       "the parameters must have x's dtype or be float32");
  need(weight.device() == x.device() && other.device() == x.device(), "all tensors must be on one device");
}

Tensor layer_norm_fwd(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_layer_norm("layer_norm_fwd", x, weight, bias);
  if (bias.dim() != 1 || bias.size(0) != x.size(1) || !bias.is_contiguous() ||
      bias.scalar_type() != weight.scalar_type())
    refuse("layer_norm_fwd", "bias must be like weight", describe("weight", weight), describe("bias", bias));
  Tensor y = new_contiguous(x);
  const LayerNormForward p{
      x.const_data_ptr(), weight.const_data_ptr(), bias.const_data_ptr(), y.mutable_data_ptr(), x.size(0),
      x.size(1),          static_cast<float>(eps), *dtype_of(x),          *dtype_of(weight)};
  const CudaScope scope(x);
  check_cuda(launch_layer_norm_forward(p, scope.stream()));
  return y;
}

std::tuple<Tensor, Tensor> layer_norm_bwd(const Tensor& dy, const Tensor& x, const Tensor& weight, double eps) {
  check_layer_norm("layer_norm_bwd", x, weight, dy);
  if (dy.dim() != 2 || dy.size(0) != x.size(0) || dy.size(1) != x.size(1) || !dy.is_contiguous() ||
      dy.scalar_type() != x.scalar_type())
    refuse("layer_norm_bwd", "dy must be like x", describe("dy", dy), describe("x", x));
  Tensor dx = new_contiguous(x);
  Tensor dparams = floats(x, {2, x.size(1)});
  LayerNormBackward p{
      dy.const_data_ptr(), x.const_data_ptr(), weight.const_data_ptr(), dx.mutable_data_ptr(), nullptr,
      x.size(0),           x.size(1),          static_cast<float>(eps), *dtype_of(x),          *dtype_of(weight)};
  const CudaScope scope(x);
  int64_t blocks = 0;
  check_cuda(layer_norm_backward_blocks(p, &blocks));
  Tensor partial = floats(x, {blocks, 2, p.c});
  p.partial = float_data(partial);
  check_cuda(launch_layer_norm_backward(p, blocks, scope.stream()));
  SumJobs jobs{};
  jobs.add(p.partial, float_data(dparams), blocks, 2 * p.c);
  check_cuda(launch_sums(jobs, scope.stream()));
  return {std::move(dx), std::move(dparams)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("layer_norm_fwd", TORCH_BOX(&cnv2::layer_norm_fwd));
  m.impl("layer_norm_bwd", TORCH_BOX(&cnv2::layer_norm_bwd));
}
