// The CPU implementation of a whole block for inference: depthwise convolution and LayerNorm, then mlp_grn with the
// residual, a few samples at a time, so that what the one writes is in the cache when the other reads it.
#include "cpu/common/isa.h"
#include "cpu/common/scratch.h"
#include "cpu/mlp_grn/mlp_grn.h"
#include "dwconv_packed.h"
#include "groups.h"
#include "kept.h"
#include "parallel_cpu.h"

namespace cnv2 {
namespace {

constexpr int64_t kChunkRows = 784;

struct BlockWeights {
  const Tensor &kernel, &bias, &ln_weight, &ln_bias, &w1, &b1, &gamma, &beta, &w2, &b2;
  const Tensor* layer_scale;  // folded into w2 and b2; null: none
};

// One copy of all weights: their sample, the depthwise convolution's and LayerNorm's, then the matrices.
struct Packed {
  int64_t sampled, depthwise, matrices;
  int64_t all() const { return sampled + depthwise + matrices; }
};

const Tensor* pointer(const std::optional<Tensor>& t) { return t.has_value() ? &*t : nullptr; }

const MlpGrnCpu& mlp_kernels() { return mlp_grn_cpu(current_cpu_isa()); }

MlpGrnShape mlp_shape(const RowGroups& groups, const BlockWeights& w, double eps, DType activations) {
  return {groups, w.w1.size(1), w.w1.size(0), w.w2.size(0), static_cast<float>(eps), int64_t{1} << 62, activations};
}

Packed sizes(const BlockWeights& w, DType activations) {
  return {sample_floats(11), depthwise_packed_floats(current_cpu_isa(), w.w1.size(1)),
          mlp_kernels().packed_floats(mlp_shape({}, w, 0, activations))};
}

bool is_stale(const BlockWeights& w, const float* kept) {
  return stale(
      {&w.kernel, &w.bias, &w.ln_weight, &w.ln_bias, &w.w1, &w.b1, &w.gamma, &w.beta, &w.w2, &w.b2, w.layer_scale},
      kept);
}

void check(const char* op, const BlockWeights& w) {
  const int64_t c = w.w2.dim() == 2 ? w.w2.size(0) : 0, hidden = w.w2.dim() == 2 ? w.w2.size(1) : 0;
  const auto vector = [](const Tensor& t, int64_t count) {
    return t.numel() == count && t.is_contiguous() && dtype_of(t).has_value();
  };
  const auto matrix = [](const Tensor& t, int64_t rows, int64_t columns) {
    return t.dim() == 2 && t.size(0) == rows && t.size(1) == columns && t.is_contiguous() && dtype_of(t).has_value();
  };
  if (c < 1 || hidden < 1 || w.kernel.dim() != 4 || w.kernel.size(0) != c || w.kernel.numel() != c * kDwconvTaps ||
      !dtype_of(w.kernel).has_value() || !vector(w.bias, c) || !vector(w.ln_weight, c) || !vector(w.ln_bias, c) ||
      !matrix(w.w1, hidden, c) || !matrix(w.w2, c, hidden) || !vector(w.b1, hidden) || !vector(w.gamma, hidden) ||
      !vector(w.beta, hidden) || !vector(w.b2, c) || (w.layer_scale != nullptr && !vector(*w.layer_scale, c)))
    refuse(op, "wants a kernel [C, 1, 7, 7], w1 [K, C], w2 [C, K], and contiguous vectors",
           describe("kernel", w.kernel), describe("w1", w.w1), describe("w2", w.w2));
}

// A contiguous tensor whose first dimension is C, in float32 and multiplied by the layer scale.
Tensor scaled(const Tensor& t, const Tensor& layer_scale) {
  Tensor out = floats(t, {t.numel()});
  const int64_t c = t.size(0), columns = t.numel() / c;
  float* values = float_data(out);
  for (int64_t i = 0; i < c; ++i)
    for (int64_t j = 0; j < columns; ++j)
      values[i * columns + j] = float_at(t, i * columns + j) * float_at(layer_scale, i);
  return out;
}

void pack(const BlockWeights& w, const Packed& size, DType activations, float* memory, const Parallel& parallel) {
  sample({&w.kernel, &w.bias, &w.ln_weight, &w.ln_bias, &w.w1, &w.b1, &w.gamma, &w.beta, &w.w2, &w.b2, w.layer_scale},
         memory);
  pack_depthwise(current_cpu_isa(), w.kernel, w.bias, w.ln_weight, w.ln_bias, memory + size.sampled);
  const bool scales = w.layer_scale != nullptr;
  const Tensor w2 = scales ? scaled(w.w2, *w.layer_scale) : w.w2, b2 = scales ? scaled(w.b2, *w.layer_scale) : w.b2;
  mlp_kernels().pack(mlp_shape({}, w, 0, activations),
                     {array_of(w.w1), array_of(w.b1), array_of(w.beta), array_of(w2), array_of(b2)},
                     memory + size.sampled + size.depthwise, parallel);
}

Tensor block_cpu_pack(const Tensor& w1, const Tensor& kernel, const Tensor& bias, const Tensor& ln_weight,
                      const Tensor& ln_bias, const Tensor& b1, const Tensor& gamma, const Tensor& beta,
                      const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& layer_scale, bool bfloat16) {
  const BlockWeights w{kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, pointer(layer_scale)};
  check("block_cpu_pack", w);
  const DType activations = bfloat16 ? DType::kBFloat16 : DType::kFloat32;
  const Packed size = sizes(w, activations);
  Tensor packed = floats(w1, {size.all()});
  pack(w, size, activations, float_data(packed), torch_parallel());
  return packed;
}

Tensor block_cpu_fwd(const Tensor& x, const Tensor& packed, const Tensor& w1, const Tensor& kernel, const Tensor& bias,
                     const Tensor& ln_weight, const Tensor& ln_bias, const Tensor& b1, const Tensor& gamma,
                     const Tensor& beta, const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& layer_scale,
                     double ln_eps, double grn_eps) {
  const char* op = "block_cpu_fwd";
  const BlockWeights w{kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, pointer(layer_scale)};
  check(op, w);
  if (x.dim() != 4 || x.size(3) != w1.size(1) || !x.is_contiguous() || !dtype_of(x).has_value())
    refuse(op, "x must be contiguous [N, H, W, C]", describe("x", x), describe("w1", w1));
  const DType dtype = *dtype_of(x);
  const Packed size = sizes(w, dtype);
  const Parallel parallel = torch_parallel();
  float* memory = kept_data(op, packed, size.all());
  if (is_stale(w, memory)) pack(w, size, dtype, memory, parallel);
  Tensor y = new_contiguous(x);
  const int64_t n = x.size(0), plane = x.size(1) * x.size(2), c = x.size(3);
  if (n * plane == 0) return y;
  const int64_t most = plane < kChunkRows ? kChunkRows / plane : 1, item = static_cast<int64_t>(x.element_size());
  const int64_t chunk = n < most ? n : most;
  char* u = reinterpret_cast<char*>(thread_scratch(ScratchSlot::kBlock, (chunk * plane * c * item + 3) / 4));
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t samples = n - first < chunk ? n - first : chunk, at = first * plane * c * item;
    const char* here = static_cast<const char*>(x.const_data_ptr()) + at;
    run_depthwise(current_cpu_isa(), here, dtype, samples, x.size(1), x.size(2), c, static_cast<float>(ln_eps),
                  memory + size.sampled, u);
    MlpGrnForward p{};
    p.shape = mlp_shape({samples * plane, samples, plane, nullptr}, w, grn_eps, dtype);
    p.u = {u, dtype};
    p.packed = memory + size.sampled + size.depthwise;
    p.gamma = array_of(gamma);
    p.residual = here;
    p.scale_rows = 1;
    p.y = static_cast<char*>(y.mutable_data_ptr()) + at;
    p.y_dtype = dtype;
    mlp_kernels().forward(p, parallel);
  }
  return y;
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CPU, m) {
  m.impl("block_cpu_pack", TORCH_BOX(&cnv2::block_cpu_pack));
  m.impl("block_cpu_fwd", TORCH_BOX(&cnv2::block_cpu_fwd));
}
