// The CPU implementations of layer_norm's operators.
#include "cpu/layer_norm/layer_norm.h"

#include <tuple>
#include <utility>

#include "cpu/common/isa.h"
#include "groups.h"
#include "parallel_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

void check_rows(const char* op, const Tensor& x) {
  if (x.dim() != 2 || x.size(1) < 1 || !x.is_contiguous() || !dtype_of(x).has_value())
    refuse(op, "x must be contiguous rows [T, C] in float32, bfloat16 or float16", describe("x", x));
}

Tensor layer_norm_fwd(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const char* op = "layer_norm_fwd";
  check_rows(op, x);
  vector_dtype(op, "weight", x, x.size(1), weight);
  vector_dtype(op, "bias", x, x.size(1), bias);
  Tensor y = new_contiguous(x);
  const LayerNormForward p{array_of(x), array_of(weight), array_of(bias),         y.mutable_data_ptr(),
                           x.size(0),   x.size(1),        static_cast<float>(eps)};
  layer_norm_cpu(current_cpu_isa()).forward(p, torch_parallel());
  return y;
}

std::tuple<Tensor, Tensor> layer_norm_bwd(const Tensor& dy, const Tensor& x, const Tensor& weight, double eps) {
  const char* op = "layer_norm_bwd";
  check_rows(op, x);
  check_like(op, "dy", x, dy);
  vector_dtype(op, "weight", x, x.size(1), weight);
  Tensor dx = new_contiguous(x), dparams = floats(x, {2, x.size(1)});
  const LayerNormBackward p{array_of(dy),        array_of(x), array_of(weight), dx.mutable_data_ptr(),
                            float_data(dparams), x.size(0),   x.size(1),        static_cast<float>(eps)};
  layer_norm_cpu(current_cpu_isa()).backward(p, torch_parallel_in(true));
  return {std::move(dx), std::move(dparams)};
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::layer_norm_fwd>("layer_norm_fwd");
  m.add<&cnv2::layer_norm_bwd>("layer_norm_bwd");
}
