// The CPU implementations of block's operators: checks, allocation, registration.
#include "cpu/block/block.h"

#include <tuple>
#include <utility>

#include "common/dwconv.h"
#include "cpu/common/isa.h"
#include "packed_cpu.h"

namespace cnv2 {
namespace {

// A block's parameters, in the order of the schemas.
struct Parameters {
  const Tensor &kernel, &bias, &ln_weight, &ln_bias, &w1, &b1, &gamma, &beta, &w2, &b2;
  const std::optional<Tensor>& layer_scale;
};

BlockWeights weights_of(const char* op, const Parameters& w) {
  const int64_t c = w.w2.dim() == 2 ? w.w2.size(0) : 0, hidden = w.w2.dim() == 2 ? w.w2.size(1) : 0;
  const auto vector = [](const Tensor& t, int64_t count) {
    return t.numel() == count && t.is_contiguous() && dtype_of(t).has_value();
  };
  const auto matrix = [](const Tensor& t, int64_t rows, int64_t columns) {
    return t.dim() == 2 && t.size(0) == rows && t.size(1) == columns && t.is_contiguous() && dtype_of(t).has_value();
  };
  if (c < 1 || hidden < 1 || w.kernel.dim() != 4 || w.kernel.size(0) != c || w.kernel.size(2) != kDwconvSide ||
      w.kernel.numel() != c * kDwconvTaps || !dtype_of(w.kernel).has_value() || !vector(w.bias, c) ||
      !vector(w.ln_weight, c) || !vector(w.ln_bias, c) || !matrix(w.w1, hidden, c) || !matrix(w.w2, c, hidden) ||
      !vector(w.b1, hidden) || !vector(w.gamma, hidden) || !vector(w.beta, hidden) || !vector(w.b2, c) ||
      (w.layer_scale.has_value() && !vector(*w.layer_scale, c)))
    refuse(op, "wants a kernel [C, 1, 7, 7], w1 [K, C], w2 [C, K], and contiguous vectors",
           describe("kernel", w.kernel), describe("w1", w.w1), describe("w2", w.w2));
  BlockWeights out{};
  out.c = c, out.hidden = hidden;
  out.kernel = strided_of(w.kernel);
  out.bias = array_of(w.bias), out.ln_weight = array_of(w.ln_weight), out.ln_bias = array_of(w.ln_bias);
  out.w1 = array_of(w.w1), out.b1 = array_of(w.b1), out.beta = array_of(w.beta);
  out.w2 = array_of(w.w2), out.b2 = array_of(w.b2);
  if (w.layer_scale.has_value()) out.layer_scale = array_of(*w.layer_scale);
  return out;
}

PackedSources sources_of(const Parameters& w) {
  return {strided_of(w.kernel), strided_of(w.bias), strided_of(w.ln_weight),  strided_of(w.ln_bias),
          strided_of(w.w1),     strided_of(w.b1),   strided_of(w.gamma),      strided_of(w.beta),
          strided_of(w.w2),     strided_of(w.b2),   strided_of(w.layer_scale)};
}

Tensor block_cpu_pack(const Tensor& kernel, const Tensor& bias, const Tensor& ln_weight, const Tensor& ln_bias,
                      const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta, const Tensor& w2,
                      const Tensor& b2, const std::optional<Tensor>& layer_scale, bool bfloat16) {
  const Parameters parameters{kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale};
  const BlockWeights weights = weights_of("block_cpu_pack", parameters);
  const PackedKind kind = block_kind(current_cpu_isa(), bfloat16 ? DType::kBFloat16 : DType::kFloat32);
  return new_packed(kind, sources_of(parameters), block_packed_floats(kind, weights.c, weights.hidden), w1,
                    [&](float* memory) { pack_block(kind, weights, memory, torch_parallel()); });
}

std::tuple<Tensor, Tensor> block_cpu_fwd(const Tensor& x, const Tensor& packed, const Tensor& kernel,
                                         const Tensor& bias, const Tensor& ln_weight, const Tensor& ln_bias,
                                         const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta,
                                         const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& layer_scale,
                                         double ln_eps, double grn_eps) {
  const char* op = "block_cpu_fwd";
  const Parameters parameters{kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale};
  const BlockWeights weights = weights_of(op, parameters);
  if (x.dim() != 4 || x.size(3) != weights.c || !x.is_contiguous() || !dtype_of(x).has_value())
    refuse(op, "x must be contiguous [N, H, W, C]", describe("x", x), describe("w1", w1));
  const CpuIsa isa = current_cpu_isa();
  const PackedKind kind = block_kind(isa, *dtype_of(x));
  const Parallel parallel = torch_parallel();
  PackedUse use =
      packed_or_new(op, packed, kind, sources_of(parameters), block_packed_floats(kind, weights.c, weights.hidden), x,
                    [&](float* memory) { pack_block(kind, weights, memory, parallel); });
  Tensor y = new_contiguous(x);
  const BlockForward p{x.size(0),
                       x.size(1),
                       x.size(2),
                       weights.c,
                       weights.hidden,
                       array_of(x),
                       use.data,
                       array_of(gamma),
                       static_cast<float>(ln_eps),
                       static_cast<float>(grn_eps),
                       y.mutable_data_ptr()};
  run_block(isa, p, parallel);
  return {std::move(y), std::move(use.repacked)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CPU, m) {
  m.impl("block_cpu_pack", TORCH_BOX(&cnv2::block_cpu_pack));
  m.impl("block_cpu_fwd", TORCH_BOX(&cnv2::block_cpu_fwd));
}
