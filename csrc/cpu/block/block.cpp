#include "block.h"

#include <vector>

#include "cpu/common/dtype_switch.h"
#include "cpu/common/scratch.h"
#include "cpu/dwconv/run.h"
#include "cpu/mlp_grn/mlp_grn.h"

namespace cnv2 {
namespace {

using Floats = std::vector<float>;

// The convolution with LayerNorm on a dense plane. Of the parameters a call looks only at whether they are there, since
// it reads the packed ones.
DwconvForward depthwise(int64_t n, int64_t h, int64_t w, int64_t c) {
  static constexpr float kThere = 0;
  DwconvForward p{};
  p.plane = {n, static_cast<int>(h), static_cast<int>(w), nullptr};
  p.c = c;
  p.taps = &kThere;
  p.bias = p.ln_weight = p.ln_bias = &kThere;
  return p;
}

int64_t depthwise_floats(CpuIsa isa, int64_t c) {
  return dwconv_cpu(isa).tiling(depthwise(1, 1, 1, c), 1).packed_floats;
}

void pack_depthwise(CpuIsa isa, const BlockWeights& w, float* packed) {
  Floats params;
  params.reserve(static_cast<size_t>((kDwconvTaps + 3) * w.c));
  const int64_t* strides = w.kernel.strides;
  for (int64_t tap = 0; tap < kDwconvTaps; ++tap) {
    const int64_t kx = tap / kDwconvSide, ky = tap % kDwconvSide;
    for (int64_t c = 0; c < w.c; ++c)
      params.push_back(float_at(w.kernel.array, c * strides[0] + ky * strides[2] + kx * strides[3]));
  }
  for (const ConstArray& vector : {w.bias, w.ln_weight, w.ln_bias}) {
    for (int64_t c = 0; c < w.c; ++c) params.push_back(float_at(vector, c));
  }
  DwconvForward p = depthwise(1, 1, 1, w.c);
  const float* vectors = params.data() + kDwconvTaps * w.c;
  p.taps = params.data(), p.bias = vectors, p.ln_weight = vectors + w.c, p.ln_bias = vectors + 2 * w.c;
  dwconv_cpu(isa).pack(p, packed, 0, dwconv_cpu(isa).tiling(p, 1).blocks);
}

MlpGrnShape mlp_shape(const RowGroups& groups, int64_t c, int64_t hidden, float eps, DType activations) {
  return {groups, c, hidden, c, eps, int64_t{1} << 62, activations};
}

// Rows [C, columns] as floats, each multiplied by its element of `factors`.
Floats scaled(const ConstArray& rows, int64_t c, int64_t columns, const ConstArray& factors) {
  Floats out(static_cast<size_t>(c * columns));
  for (int64_t i = 0; i < c * columns; ++i)
    out[static_cast<size_t>(i)] = float_at(rows, i) * float_at(factors, i / columns);
  return out;
}

}  // namespace

PackedKind block_kind(CpuIsa isa, DType activations) {
  return {PackedOp::kBlock, isa, packed_dtype(mlp_grn_cpu(isa), activations)};
}

int64_t block_packed_floats(const PackedKind& kind, int64_t c, int64_t hidden) {
  return depthwise_floats(kind.isa, c) + mlp_grn_cpu(kind.isa).packed_floats(mlp_shape({}, c, hidden, 0, kind.dtype));
}

void pack_block(const PackedKind& kind, const BlockWeights& w, float* packed, const Parallel& parallel) {
  pack_depthwise(kind.isa, w, packed);
  MlpGrnWeights matrices{w.w1, w.b1, w.beta, w.w2, w.b2};
  Floats w2, b2;
  if (w.layer_scale.data != nullptr) {
    w2 = scaled(w.w2, w.c, w.hidden, w.layer_scale), b2 = scaled(w.b2, w.c, 1, w.layer_scale);
    matrices.w2 = {w2.data(), DType::kFloat32}, matrices.b2 = {b2.data(), DType::kFloat32};
  }
  mlp_grn_cpu(kind.isa).pack(mlp_shape({}, w.c, w.hidden, 0, kind.dtype), matrices,
                             packed + depthwise_floats(kind.isa, w.c), parallel);
}

void run_block(CpuIsa isa, const BlockForward& p, const Parallel& parallel) {
  const int64_t plane = p.h * p.w, item = p.x.dtype == DType::kFloat32 ? 4 : 2, sample_bytes = plane * p.c * item;
  if (p.n * plane == 0) return;
  const int64_t most = plane < kMlpGrnChunkRows ? kMlpGrnChunkRows / plane : 1, chunk = p.n < most ? p.n : most;
  float* u = thread_scratch(ScratchSlot::kBlock, (chunk * sample_bytes + 3) / 4);
  const float* matrices = p.packed + depthwise_floats(isa, p.c);
  for (int64_t first = 0; first < p.n; first += chunk) {
    const int64_t samples = p.n - first < chunk ? p.n - first : chunk;
    const char* x = static_cast<const char*>(p.x.data) + first * sample_bytes;
    DwconvForward conv = depthwise(samples, p.h, p.w, p.c);
    conv.x = x, conv.y = u, conv.eps = p.ln_eps, conv.dtype = p.x.dtype;
    run_dwconv(dwconv_cpu(isa), conv, p.packed, parallel);
    MlpGrnForward mlp{};
    mlp.shape = mlp_shape({samples * plane, samples, plane, nullptr}, p.c, p.hidden, p.grn_eps, p.x.dtype);
    mlp.u = {u, p.x.dtype};
    mlp.packed = matrices;
    mlp.gamma = p.gamma;
    mlp.residual = x;
    mlp.scale_rows = 1;
    mlp.y = static_cast<char*>(p.y) + first * sample_bytes;
    mlp.y_dtype = p.x.dtype;
    mlp_grn_cpu(isa).forward(mlp, parallel);
  }
}

}  // namespace cnv2
