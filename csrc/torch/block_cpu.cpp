// The CPU implementations of block's operators: checks, allocation, registration.
#include "cpu/block/block.h"

#include <tuple>
#include <utility>

#include "common/dwconv.h"
#include "cpu/common/isa.h"
#include "cpu/common/scratch.h"
#include "packed_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

// A block's parameters, in the order of the schemas.
struct Parameters {
  const Tensor &kernel, &bias, &ln_weight, &ln_bias, &w1, &b1, &gamma, &beta, &w2, &b2;
  const std::optional<Tensor>& layer_scale;
};

struct Sizes {
  int64_t c, hidden;
};

// Refuses what does not fit. Strides may be any.
Sizes sizes_of(const char* op, const Parameters& w) {
  const int64_t c = w.w2.dim() == 2 ? w.w2.size(0) : 0, hidden = w.w2.dim() == 2 ? w.w2.size(1) : 0;
  const auto vector = [](const Tensor& t, int64_t count) { return t.numel() == count && is_source(t); };
  const auto matrix = [](const Tensor& t, int64_t rows, int64_t columns) {
    return t.dim() == 2 && t.size(0) == rows && t.size(1) == columns && is_source(t);
  };
  if (c < 1 || hidden < 1 || w.kernel.dim() != 4 || w.kernel.size(0) != c || w.kernel.size(2) != kDwconvSide ||
      w.kernel.numel() != c * kDwconvTaps || !is_source(w.kernel) || !vector(w.bias, c) || !vector(w.ln_weight, c) ||
      !vector(w.ln_bias, c) || !matrix(w.w1, hidden, c) || !matrix(w.w2, c, hidden) || !vector(w.b1, hidden) ||
      !vector(w.gamma, hidden) || !w.gamma.is_contiguous() || !vector(w.beta, hidden) || !vector(w.b2, c) ||
      (w.layer_scale.has_value() && !vector(*w.layer_scale, c)))
    refuse(op, "wants a kernel [C, 1, 7, 7], w1 [K, C], w2 [C, K], vectors, and a contiguous gamma",
           describe("kernel", w.kernel), describe("w1", w.w1), describe("w2", w.w2));
  return {c, hidden};
}

// Without gamma, which a call reads itself.
Sources sources_of(const Parameters& w) {
  return {strided_of(w.kernel), strided_of(w.bias),       strided_of(w.ln_weight), strided_of(w.ln_bias),
          strided_of(w.w1),     strided_of(w.b1),         strided_of(w.beta),      strided_of(w.w2),
          strided_of(w.b2),     strided_of(w.layer_scale)};
}

// Packs sources in the order of sources_of, all of them contiguous.
auto packs(const PackedKind& kind, const Sizes& sizes) {
  return [=](const Sources& s, float* memory) {
    const BlockWeights weights{sizes.c,    sizes.hidden, s[0],       s[1].array, s[2].array, s[3].array,
                               s[4].array, s[5].array,   s[6].array, s[7].array, s[8].array, s[9].array};
    pack_block(kind, weights, memory, torch_parallel());
  };
}

Tensor block_cpu_pack(const Tensor& kernel, const Tensor& bias, const Tensor& ln_weight, const Tensor& ln_bias,
                      const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta, const Tensor& w2,
                      const Tensor& b2, const std::optional<Tensor>& layer_scale, bool bfloat16) {
  const Parameters parameters{kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale};
  const Sizes sizes = sizes_of("block_cpu_pack", parameters);
  const PackedKind kind = block_kind(current_cpu_isa(), bfloat16 ? DType::kBFloat16 : DType::kFloat32);
  return new_packed(kind, sources_of(parameters), block_packed_floats(kind, sizes.c, sizes.hidden), w1,
                    packs(kind, sizes));
}

std::tuple<Tensor, Tensor> block_cpu_fwd(const Tensor& x, const Tensor& packed, const Tensor& kernel,
                                         const Tensor& bias, const Tensor& ln_weight, const Tensor& ln_bias,
                                         const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta,
                                         const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& layer_scale,
                                         double ln_eps, double grn_eps) {
  const char* op = "block_cpu_fwd";
  const Parameters parameters{kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale};
  const Sizes sizes = sizes_of(op, parameters);
  if (x.dim() != 4 || x.size(3) != sizes.c || !x.is_contiguous() || !dtype_of(x).has_value())
    refuse(op, "x must be contiguous [N, H, W, C]", describe("x", x), describe("w1", w1));
  const CpuIsa isa = current_cpu_isa();
  const PackedKind kind = block_kind(isa, *dtype_of(x));
  PackedUse use = packed_or_new(op, packed, kind, sources_of(parameters),
                                block_packed_floats(kind, sizes.c, sizes.hidden), x, packs(kind, sizes));
  Tensor y = new_contiguous(x);
  const BlockForward p{x.size(0),
                       x.size(1),
                       x.size(2),
                       sizes.c,
                       sizes.hidden,
                       array_of(x),
                       use.data,
                       array_of(gamma),
                       static_cast<float>(ln_eps),
                       static_cast<float>(grn_eps),
                       y.mutable_data_ptr()};
  const ReturnLargeScratch after;
  run_block(isa, p, torch_parallel_in(false));
  return {std::move(y), std::move(use.repacked)};
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::block_cpu_pack>("block_cpu_pack");
  m.add<&cnv2::block_cpu_fwd>("block_cpu_fwd");
}
