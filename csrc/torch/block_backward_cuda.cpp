// The CUDA implementation of the block's backward operator. The hidden activations are computed again from u.
#include <tuple>
#include <utility>

#include "block_cuda.h"
#include "cuda/layer_norm/layer_norm.h"
#include "wanted.h"

namespace cnv2 {
namespace {

// The gradients, in the order of `wanted`.
enum class Of { kX, kKernel, kBias, kLnWeight, kLnBias, kW1, kB1, kGamma, kBeta, kW2, kB2 };

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of x (with that of the residual, if x is it) and of the parameters: theirs in shape, but bias, ln_bias and
// b2 [C]; those that are not `wanted` are empty.
Gradients block_cuda_bwd(const Tensor& dout, const Tensor& x, const Tensor& z, const Tensor& u, const Tensor& norm,
                         const Tensor& memory, const Tensor& kernel, const Tensor& ln_weight, const Tensor& w1,
                         const Tensor& b1, const Tensor& gamma, const Tensor& beta, const Tensor& w2,
                         const std::optional<Tensor>& row_scale, bool residual_is_x, int64_t wanted_code, double ln_eps,
                         double grn_eps, bool mma, bool planes, int64_t h, int64_t w, const std::optional<Tensor>& map,
                         int64_t rows_per_group, int64_t count, const std::optional<Tensor>& row_group,
                         const std::optional<Tensor>& offsets) {
  const char* op = "block_cuda_bwd";
  const std::optional<Tensor> absent;
  const BlockParameters p{kernel, absent, ln_weight, nullptr, w1, b1, gamma, beta, w2, nullptr};
  const BlockPlaces places{planes, h, w, map, rows_per_group, count, row_group, offsets};
  check_parameters(op, x, places, p);
  const int64_t c = places.channels(x), t = x.numel() / c, k = w1.size(0),
                size = static_cast<int64_t>(x.element_size());
  const ScalarType type = x.scalar_type();
  const DType dtype = *dtype_of(x);
  const Tensor rows = rows_view(x, t, c);
  check_like(op, "z", rows, z);
  check_like(op, "u", rows, u);
  if (dout.numel() != t * c || !places.in_rows(dout) || !(dout.device() == x.device()) ||
      (dout.scalar_type() != type && (residual_is_x || dout.scalar_type() != ScalarType::Float)))
    refuse(op, "dout must be contiguous, of x's shape, on its device, in the residual's dtype", describe("x", x),
           describe("dout", dout));
  const RowGroups groups = places.groups(op, x, rows);
  const float* const norms = of_groups(op, "norm", rows, groups, k, norm);
  const int64_t runs = runs_of(op, rows, row_scale), g = groups.count;
  const Wanted<Of> wanted(wanted_code, type);
  const bool wants_conv = wanted(Of::kKernel) || wanted(Of::kBias);
  const bool wants_norm = wants_conv || wanted(Of::kX) || wanted(Of::kLnWeight) || wanted(Of::kLnBias);

  const CudaScope scope(x);
  const BlockWeights weights(x, p);
  GroupShape hidden{groups, k, dtype, k * size % 16 == 0};
  check_cuda(set_splits(&hidden));
  const bool converts = row_scale.has_value() || dout.scalar_type() != type;
  const bool lines = c * size % 16 == 0 && reinterpret_cast<uintptr_t>(dout.const_data_ptr()) % 16 == 0;
  GroupShape output{{t, runs, runs > 0 ? t / runs : 0, nullptr}, c, dtype, lines};
  check_cuda(set_output_gradient_splits(*dtype_of(dout), &output));

  Pieces pieces;
  const int64_t at_dg = pieces.place(t * k * size), at_h = pieces.place(t * k * size);
  const int64_t at_dy = converts ? pieces.place(t * c * size) : 0, at_du = pieces.place(t * c * size);
  const int64_t at_partial = pieces.place_floats(2 * hidden.splits * g * k),
                at_columns = pieces.place_floats(output.splits * runs * c);
  const int64_t at_scale = pieces.place_floats(g * k), at_factor = pieces.place_floats(g * k),
                at_shares = pieces.place_floats(g * k);
  const Tensor scratch = empty(x, {pieces.size()}, ScalarType::Byte);
  char* const base = static_cast<char*>(scratch.mutable_data_ptr());
  const auto floats_at = [&](int64_t at) { return reinterpret_cast<float*>(base + at); };
  SumJobs jobs{};
  const auto vector = [&](Of which, int64_t length) {
    return empty(x, {wanted(which) ? length : 0}, wanted.type(which));
  };
  const auto like = [&](Of which, const Tensor& v) {
    return wanted(which) ? empty(x, v.sizes().data(), v.dim(), wanted.type(which)) : empty(x, {0}, ScalarType::Float);
  };
  // Adds up `columns` of each part, if that gradient is wanted.
  const auto add = [&](Of which, Tensor& to, const float* partial, int64_t parts, int64_t columns, int64_t pitch) {
    if (wanted(which)) jobs.add(partial, to.mutable_data_ptr(), *dtype_of(to), parts, columns, pitch);
  };

  // dy = row_scale dout, and its columns' sums.
  Tensor db2 = vector(Of::kB2, c);
  MlpOutputGradient first{};
  first.dout = dout.const_data_ptr();
  first.row_scale = row_scale.has_value() ? static_cast<const float*>(row_scale->const_data_ptr()) : nullptr;
  first.dy = converts ? base + at_dy : nullptr;
  first.partial = wanted(Of::kB2) ? floats_at(at_columns) : nullptr;
  first.out_dtype = *dtype_of(dout);
  if (converts || wanted(Of::kB2)) check_cuda(launch_mlp_output_gradient(output, first, scope.stream()));
  add(Of::kB2, db2, first.partial, t > 0 ? output.splits * runs : 0, c, c);
  const Tensor dy = converts ? pool_view(scratch, at_dy, type, {t, c}) : rows_view(dout, t, c);

  // The hidden tensors: dg becomes dh, and h becomes GRN's result.
  const Tensor matrix1 = weights.w1(memory), matrix2 = weights.w2(memory);
  const Tensor dh = pool_view(scratch, at_dg, type, {t, k}), result = pool_view(scratch, at_h, type, {t, k});
  product(dh, dy, matrix2);
  product(result, u, transposed(matrix1));
  const MlpBackward mlp{dh.const_data_ptr(),   result.const_data_ptr(),   b1.const_data_ptr(), beta.const_data_ptr(),
                        dh.mutable_data_ptr(), result.mutable_data_ptr(), *dtype_of(b1),       *dtype_of(beta)};
  const GrnGrad grad{floats_at(at_partial), gamma.const_data_ptr(),     norms,
                     floats_at(at_scale),   floats_at(at_factor),       floats_at(at_shares),
                     *dtype_of(gamma),      static_cast<float>(grn_eps)};
  check_cuda(launch_mlp_backward(hidden, mlp, grad, scope.stream()));
  Tensor db1 = like(Of::kB1, b1), dgamma = like(Of::kGamma, gamma), dbeta = like(Of::kBeta, beta);
  const int64_t parts = hidden.splits * g;
  add(Of::kB1, db1, grad.partial, parts, k, k);
  add(Of::kGamma, dgamma, grad.shares, g, k, k);
  add(Of::kBeta, dbeta, grad.partial + parts * k, parts, k, k);
  const Tensor none = empty(x, {0}, ScalarType::Float);
  Tensor dw1 = wanted(Of::kW1) ? product_as(wanted.type(Of::kW1), transposed(dh), u) : none;
  Tensor dw2 = wanted(Of::kW2) ? product_as(wanted.type(Of::kW2), transposed(dy), result) : none;
  if (wanted(Of::kW1) && w1.dim() == 4) dw1 = view_of(dw1, {k, c, 1, 1}, {c, 1, 1, 1});
  if (wanted(Of::kW2) && w2.dim() == 4) dw2 = view_of(dw2, {c, k, 1, 1}, {k, 1, 1, 1});

  // LayerNorm and the convolution; dz takes dh's place.
  Tensor dx = wanted(Of::kX) ? places.like(x, type) : empty(x, {0}, type);
  Tensor dkernel = like(Of::kKernel, kernel), dbias = vector(Of::kBias, c);
  Tensor dln_weight = like(Of::kLnWeight, ln_weight), dln_bias = vector(Of::kLnBias, c);
  Tensor sums = none;
  if (wants_norm) {
    const Tensor du = pool_view(scratch, at_du, type, {t, c});
    product(du, dh, matrix1);
    void* const dz = base + at_dg;
    LayerNormBackward ln{du.const_data_ptr(),
                         z.const_data_ptr(),
                         ln_weight.const_data_ptr(),
                         dz,
                         nullptr,
                         t,
                         c,
                         static_cast<float>(ln_eps),
                         dtype,
                         *dtype_of(ln_weight)};
    int64_t norm_blocks = 0, conv_blocks = 0;
    check_cuda(layer_norm_backward_blocks(ln, &norm_blocks));
    const Tensor taps = weights.taps(memory);
    const DwconvCheck check{op, rows, taps, map};
    DwconvBackward conv =
        backward_params(check, pool_view(scratch, at_dg, type, {t, c}), places.height(x), places.width(x));
    const bool on_tensor_cores = mma && takes_mma(dtype, c, conv.plane.map == nullptr);
    if (wants_conv) check_cuda(dwconv_backward_blocks(conv, on_tensor_cores, &conv_blocks));
    sums = floats(x, {2 * norm_blocks * c + conv_blocks * kDwconvSums * c + 1});  // never null, also where none are
    ln.partial = float_data(sums);
    check_cuda(launch_layer_norm_backward(ln, norm_blocks, scope.stream()));
    add(Of::kLnWeight, dln_weight, ln.partial, norm_blocks, c, 2 * c);
    add(Of::kLnBias, dln_bias, ln.partial + c, norm_blocks, c, 2 * c);

    conv.dx = wanted(Of::kX) ? dx.mutable_data_ptr() : nullptr;
    conv.addend = residual_is_x ? dout.const_data_ptr() : nullptr;
    conv.partial = wants_conv ? ln.partial + 2 * norm_blocks * c : nullptr;
    if (wants_conv || wanted(Of::kX))
      check_cuda(launch_dwconv_backward(conv, on_tensor_cores, conv_blocks, scope.stream()));
    const int64_t pitch = kDwconvSums * c;
    if (wanted(Of::kKernel)) {
      jobs.add(conv.partial, dkernel.mutable_data_ptr(), *dtype_of(dkernel), conv_blocks, kDwconvTaps * c, pitch);
      jobs.job[jobs.count - 1].channels_of_taps = kernel.dim() == 4 ? c : 0;
    }
    add(Of::kBias, dbias, conv.partial + kDwconvTaps * c, conv_blocks, c, pitch);
  }
  if (jobs.count > 0) check_cuda(launch_sums(jobs, scope.stream()));
  return {std::move(dx),       std::move(dkernel), std::move(dbias), std::move(dln_weight),
          std::move(dln_bias), std::move(dw1),     std::move(db1),   std::move(dgamma),
          std::move(dbeta),    std::move(dw2),     std::move(db2)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("block_cuda_bwd", TORCH_BOX(&cnv2::block_cuda_bwd));
}
