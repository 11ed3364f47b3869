// The CUDA implementations of the block's operators: kernels and products one after the other, with one allocation for
// what is between them.
#include "block_cuda.h"

#include <tuple>
#include <utility>

#include "cuda/layer_norm/layer_norm.h"

namespace cnv2 {
namespace {

// GRN's scale goes to a copy of w2 for each group, rather than to the activations: see `folds` in ops/_mlp_grn/cuda.py,
// which has the same rule.
bool folds(const RowGroups& groups, int64_t c) { return groups.offsets == nullptr && groups.rows_per_group >= 2 * c; }

struct BlockForward {
  Tensor out;                        // like x, in the residual's dtype
  Tensor weights;                    // the parameters' copies, of BlockWeights
  std::optional<Tensor> z, u, norm;  // for backward: LayerNorm's input and output [T, C], float32 [G, K]
};

// What the operators are called with beside the parameters.
struct BlockOptions {
  const std::optional<Tensor>& residual;   // like x in float32, or none: x
  const std::optional<Tensor>& row_scale;  // [R]
  double ln_eps, grn_eps;
  bool mma;
};

BlockForward forward(const char* op, const Tensor& x, const BlockParameters& p, const BlockOptions& o,
                     const BlockPlaces& places, bool train) {
  check_parameters(op, x, places, p);
  const int64_t c = places.channels(x), t = x.numel() / c, k = p.w1.size(0);
  const ScalarType type = x.scalar_type();
  const Tensor rows = rows_view(x, t, c);
  const RowGroups groups = places.groups(op, x, rows);
  const bool own = !o.residual.has_value();
  if (!own && (o.residual->numel() != t * c || !places.in_rows(*o.residual) || !(o.residual->device() == x.device()) ||
               o.residual->scalar_type() != ScalarType::Float))
    refuse(op, "residual must be contiguous float32, of x's shape, on its device", describe("x", x),
           describe("residual", o.residual));
  const Tensor& residual = own ? x : *o.residual;
  const int64_t runs = runs_of(op, rows, o.row_scale);

  const CudaScope scope(x);
  const BlockWeights weights(x, p);
  const Tensor memory = weights.memory();
  const Tensor taps = weights.taps(memory), w1 = weights.w1(memory), w2 = weights.w2(memory);
  const std::optional<Tensor> bias = p.bias.has_value() ? std::optional<Tensor>(flat(*p.bias)) : std::nullopt;
  DwconvForward conv = forward_params({op, rows, taps, places.map}, bias, flat(p.ln_weight), flat(*p.ln_bias), o.ln_eps,
                                      places.height(x), places.width(x));
  const bool mma = o.mma && takes_mma(conv.dtype, c, conv.plane.map == nullptr);
  const bool fold = folds(groups, c);
  GroupShape hidden{groups, k, *dtype_of(x), k * static_cast<int64_t>(x.element_size()) % 16 == 0};
  check_cuda(set_splits(&hidden));

  const int64_t g = groups.count, size = static_cast<int64_t>(x.element_size());
  Pieces pieces;
  const int64_t at_h = pieces.place(t * k * size), at_y = pieces.place(t * c * size);
  const int64_t at_u = train ? 0 : pieces.place(t * c * size);
  const int64_t at_partial = pieces.place_floats(hidden.splits * g * k), at_scale = pieces.place_floats(g * k);
  const int64_t at_norm = train ? 0 : pieces.place_floats(g * k);
  const int64_t at_scaled = fold ? pieces.place(g * c * k * size) : 0, at_shift = fold ? pieces.place_floats(c) : 0;
  const Tensor scratch = empty(x, {pieces.size()}, ScalarType::Byte);
  char* const base = static_cast<char*>(scratch.mutable_data_ptr());
  const auto floats_at = [&](int64_t at) { return reinterpret_cast<float*>(base + at); };

  BlockForward made{places.like(x, residual.scalar_type()), memory, {}, {}, {}};
  if (train) {
    made.z = empty(x, {t, c}, type);
    made.u = empty(x, {t, c}, type);
    made.norm = floats(x, {g, k});
  }
  weights.fill(memory, scope.stream());

  // u = LayerNorm(dwconv(x)). Inference keeps z in the place of y, which comes later.
  const Tensor u = train ? *made.u : pool_view(scratch, at_u, type, {t, c});
  void* const z = train ? made.z->mutable_data_ptr() : base + at_y;
  const LayerNormForward norm{z, conv.ln_weight, conv.ln_bias, u.mutable_data_ptr(), t,
                              c, conv.eps,       conv.dtype,   conv.param_dtype};
  if (mma) {
    conv.ln_weight = conv.ln_bias = nullptr;
    conv.y = z;
    check_cuda(launch_dwconv(conv, true, scope.stream()));
    check_cuda(launch_layer_norm_forward(norm, scope.stream()));
  } else {
    conv.y = norm.y;
    conv.z = train ? z : nullptr;
    bool needs_z = false;
    check_cuda(launch_dwconv_layer_norm(conv, t, scope.stream(), &needs_z));
    if (needs_z) {
      conv.z = z;
      check_cuda(launch_dwconv_layer_norm(conv, t, scope.stream(), &needs_z));
    }
  }

  // a = GELU(u w1' + b1), in the place of the product, and GRN's scale.
  const Tensor h = pool_view(scratch, at_h, type, {t, k});
  product(h, u, transposed(w1));
  void* const a = h.mutable_data_ptr();
  const MlpActivate activate{a, p.b1.const_data_ptr(), a, *dtype_of(p.b1)};
  const GrnScale scale{
      floats_at(at_partial), p.gamma.const_data_ptr(), train ? float_data(*made.norm) : floats_at(at_norm),
      floats_at(at_scale),   *dtype_of(p.gamma),       static_cast<float>(o.grn_eps)};
  GrnShift shift{};
  if (fold)
    shift = {w2.const_data_ptr(), p.beta.const_data_ptr(), p.b2->const_data_ptr(),
             floats_at(at_shift), static_cast<int>(c),     conv.dtype,
             *dtype_of(p.beta),   *dtype_of(*p.b2)};
  check_cuda(launch_mlp_activate(hidden, activate, scale, shift, scope.stream()));

  // y = GRN(a) w2', by scaled copies of w2 or of a.
  const Tensor y = pool_view(scratch, at_y, type, {t, c});
  if (fold) {
    check_cuda(launch_mlp_scale_weight({w2.const_data_ptr(), scale.scale, base + at_scaled, g, c, k, conv.dtype},
                                       scope.stream()));
    const int64_t r = groups.rows_per_group;
    const Tensor scaled = pool_view(scratch, at_scaled, type, {g, c, k});
    batched_product(view_of(y, {g, r, c}, {r * c, c, 1}), view_of(h, {g, r, k}, {r * k, k, 1}),
                    view_of(scaled, {g, k, c}, {c * k, 1, k}));
  } else {
    check_cuda(
        launch_grn_apply(hidden, {a, scale.scale, p.beta.const_data_ptr(), a, *dtype_of(p.beta)}, scope.stream()));
    product(y, h, transposed(w2));
  }

  MlpFinish finish{};
  finish.y = y.const_data_ptr();
  finish.bias = fold ? shift.out : p.b2->const_data_ptr();
  finish.row_scale = o.row_scale.has_value() ? static_cast<const float*>(o.row_scale->const_data_ptr()) : nullptr;
  finish.residual = residual.const_data_ptr();
  finish.out = made.out.mutable_data_ptr();
  finish.rows = t;
  finish.columns = c;
  finish.runs = runs;
  finish.dtype = conv.dtype;
  finish.bias_dtype = fold ? DType::kFloat32 : *dtype_of(*p.b2);
  finish.out_dtype = *dtype_of(residual);
  const auto lines = static_cast<int64_t>(residual.element_size()) * c;
  finish.aligned = c * size % 16 == 0 && lines % 16 == 0 && reinterpret_cast<uintptr_t>(finish.residual) % 16 == 0;
  check_cuda(launch_mlp_finish(finish, scope.stream()));
  return made;
}

Tensor block_cuda_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, const Tensor& ln_weight,
                      const Tensor& ln_bias, const Tensor& w1, const Tensor& b1, const Tensor& gamma,
                      const Tensor& beta, const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& residual,
                      const std::optional<Tensor>& row_scale, double ln_eps, double grn_eps, bool mma, bool planes,
                      int64_t h, int64_t w, const std::optional<Tensor>& map, int64_t rows_per_group, int64_t groups,
                      const std::optional<Tensor>& row_group, const std::optional<Tensor>& offsets) {
  const BlockParameters p{kernel, bias, ln_weight, &ln_bias, w1, b1, gamma, beta, w2, &b2};
  const BlockPlaces places{planes, h, w, map, rows_per_group, groups, row_group, offsets};
  return forward("block_cuda_fwd", x, p, {residual, row_scale, ln_eps, grn_eps, mma}, places, false).out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> block_cuda_fwd_train(
    const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, const Tensor& ln_weight,
    const Tensor& ln_bias, const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta,
    const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& residual, const std::optional<Tensor>& row_scale,
    double ln_eps, double grn_eps, bool mma, bool planes, int64_t h, int64_t w, const std::optional<Tensor>& map,
    int64_t rows_per_group, int64_t groups, const std::optional<Tensor>& row_group,
    const std::optional<Tensor>& offsets) {
  const BlockParameters p{kernel, bias, ln_weight, &ln_bias, w1, b1, gamma, beta, w2, &b2};
  const BlockPlaces places{planes, h, w, map, rows_per_group, groups, row_group, offsets};
  BlockForward made = forward("block_cuda_fwd_train", x, p, {residual, row_scale, ln_eps, grn_eps, mma}, places, true);
  return {std::move(made.out), std::move(*made.z), std::move(*made.u), std::move(*made.norm), std::move(made.weights)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("block_cuda_fwd", TORCH_BOX(&cnv2::block_cuda_fwd));
  m.impl("block_cuda_fwd_train", TORCH_BOX(&cnv2::block_cuda_fwd_train));
}
