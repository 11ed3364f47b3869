// The CUDA implementation of patch_conv's backward operator. The blocks are gathered (and normalised) again.
#include <tuple>
#include <utility>

#include "cuda/mlp_grn/mlp_grn.h"
#include "patch_conv_cuda.h"
#include "wanted.h"

namespace cnv2 {
namespace {

// The gradients, in the order of `wanted`.
enum class Of { kX, kWeight, kBias, kBeforeWeight, kBeforeBias, kAfterWeight, kAfterBias };

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

LayerNormBackward norm_gradient(const void* dy, const void* x, const PatchConvNorm& norm, void* dx, int64_t rows,
                                int64_t c, double eps, DType dtype) {
  return {dy,   x, norm.weight->const_data_ptr(), dx,    nullptr,
          rows, c, static_cast<float>(eps),       dtype, *dtype_of(*norm.weight)};
}

// Gradients of x and of the parameters, in their forms; those that are not `wanted` are empty.
Gradients patch_conv_cuda_bwd(const Tensor& dout, const Tensor& x, const std::optional<Tensor>& z, const Tensor& memory,
                              const Tensor& weight, const std::optional<Tensor>& before_weight,
                              const std::optional<Tensor>& before_bias, const std::optional<Tensor>& after_weight,
                              int64_t wanted_code, double eps, bool planes, const std::optional<Tensor>& table,
                              int64_t rows, int64_t height, int64_t width, int64_t k) {
  const char* op = "patch_conv_cuda_bwd";
  const std::optional<Tensor> absent;
  const PatchConvNorm before{before_weight, pointer(before_bias)}, after{after_weight, nullptr};
  const PatchConvPlaces places{planes, table, rows, height, width, k};
  const PatchBlocks blocks = check_patch_conv(op, x, weight, absent, before, after, places);
  const ScalarType type = x.scalar_type();
  const DType dtype = *dtype_of(x);
  Pieces of_weights;
  const PatchConvWeights weights(x, weight, absent, k, &of_weights);
  const int64_t c_in = weights.c_in(), c = weights.c_out(), t = rows, sources = x.numel() / c_in;
  const auto size = static_cast<int64_t>(x.element_size());
  if (dout.numel() != t * c || !places.in_rows(dout, planes && places.maps(x)) || dout.scalar_type() != type ||
      !(dout.device() == x.device()) || memory.numel() < of_weights.size())
    refuse(op, "dout must be contiguous, in x's dtype, on its device", describe("x", x), describe("dout", dout));
  if (after && (!z.has_value() || z->numel() != t * c || !z->is_contiguous() || z->scalar_type() != type ||
                !(z->device() == x.device())))
    refuse(op, "z must be contiguous [rows, Cout], in x's dtype", describe("x", x), describe("z", z));

  const Wanted<Of> wanted(wanted_code, type);
  const bool wants_input = wanted(Of::kX) || (before && (wanted(Of::kBeforeWeight) || wanted(Of::kBeforeBias)));
  const bool wants_dz = wants_input || wanted(Of::kWeight) || wanted(Of::kBias);
  const bool wants_after = after && (wants_dz || wanted(Of::kAfterWeight) || wanted(Of::kAfterBias));

  const CudaScope scope(x);
  // Memory of the framework is aligned, so that null stands for a piece of it in what only asks for sizes.
  int64_t after_blocks = 0, before_blocks = 0;
  if (wants_after)
    check_cuda(layer_norm_backward_blocks(
        norm_gradient(dout.const_data_ptr(), z->const_data_ptr(), after, nullptr, t, c, eps, dtype), &after_blocks));
  if (before && wants_input)
    check_cuda(layer_norm_backward_blocks(
        norm_gradient(nullptr, x.const_data_ptr(), before, nullptr, sources, c_in, eps, dtype), &before_blocks));
  const bool lines = c * size % 16 == 0 && (after || reinterpret_cast<uintptr_t>(dout.const_data_ptr()) % 16 == 0);
  GroupShape columns{{t, 1, t, nullptr}, c, dtype, lines};
  check_cuda(set_output_gradient_splits(dtype, &columns));

  Pieces pieces;
  const int64_t at_dz = wants_after ? pieces.place(t * c * size) : 0;
  // The blocks, then their gradient, then the gradient of x if the norm makes one that is not wanted.
  const int64_t unwanted = before && wants_input && !wanted(Of::kX) ? sources * c_in : 0;
  const int64_t of_blocks = t * weights.depth() > unwanted ? t * weights.depth() : unwanted;
  const int64_t at_blocks = wanted(Of::kWeight) || wants_input ? pieces.place(of_blocks * size) : 0;
  const int64_t at_du = before && wants_input ? pieces.place(sources * c_in * size) : 0;
  const int64_t at_columns = wanted(Of::kBias) ? pieces.place_floats(columns.splits * c) : 0;
  const int64_t at_after = pieces.place_floats(after_blocks * 2 * c);
  const int64_t at_before = pieces.place_floats(before_blocks * 2 * c_in);
  const Tensor scratch = empty(x, {pieces.size()}, ScalarType::Byte);
  char* const base = static_cast<char*>(scratch.mutable_data_ptr());
  const auto floats_at = [&](int64_t at) { return reinterpret_cast<float*>(base + at); };
  SumJobs jobs{};
  // Adds up `length` columns of each part, if that gradient is wanted.
  const auto vector = [&](Of which, const float* partial, int64_t parts, int64_t length, int64_t pitch) {
    Tensor made = empty(x, {wanted(which) ? length : 0}, wanted.type(which));
    if (wanted(which)) jobs.add(partial, made.mutable_data_ptr(), *dtype_of(made), parts, length, pitch);
    return made;
  };

  // The norm after the convolution: dz.
  if (wants_after) {
    LayerNormBackward norm =
        norm_gradient(dout.const_data_ptr(), z->const_data_ptr(), after, base + at_dz, t, c, eps, dtype);
    norm.partial = floats_at(at_after);
    check_cuda(launch_layer_norm_backward(norm, after_blocks, scope.stream()));
  }
  Tensor dafter_weight = vector(Of::kAfterWeight, floats_at(at_after), after_blocks, c, 2 * c);
  Tensor dafter_bias = vector(Of::kAfterBias, floats_at(at_after) + c, after_blocks, c, 2 * c);
  const Tensor dz = wants_after ? pool_view(scratch, at_dz, type, {t, c}) : rows_view(dout, t, c);

  // The convolution's parameters.
  if (wanted(Of::kBias)) {
    MlpOutputGradient sums{};
    sums.dout = dz.const_data_ptr();
    sums.partial = floats_at(at_columns);
    sums.out_dtype = dtype;
    check_cuda(launch_mlp_output_gradient(columns, sums, scope.stream()));
  }
  Tensor dbias = vector(Of::kBias, floats_at(at_columns), t > 0 ? columns.splits : 0, c, c);
  const bool wants_blocks = wanted(Of::kWeight) || wants_input;
  const Tensor operand = wants_blocks ? pool_view(scratch, at_blocks, type, {t, weights.depth()}) : dz;
  Tensor dweight = empty(x, {0}, ScalarType::Float);
  if (wanted(Of::kWeight)) {
    gather_blocks(x, before, eps, blocks, c_in, base + at_blocks, scope.stream());
    dweight = weights.gradient(operand, dz, wanted.type(Of::kWeight), scope.stream());
  }

  // The input; the gradient of the blocks takes their place.
  Tensor dx = wanted(Of::kX) ? places.like(x) : empty(x, {0}, type);
  if (wants_input) {
    product(operand, dz, weights.transpose(memory));
    const Tensor du = before ? pool_view(scratch, at_du, type, {sources, c_in}) : dx;
    if (!places.covers()) STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(du.get()));
    check_cuda(
        launch_patch_scatter({operand.const_data_ptr(), du.mutable_data_ptr(), blocks, c_in, size}, scope.stream()));
    if (before) {
      void* const to = wanted(Of::kX) ? dx.mutable_data_ptr() : base + at_blocks;
      LayerNormBackward norm =
          norm_gradient(du.const_data_ptr(), x.const_data_ptr(), before, to, sources, c_in, eps, dtype);
      norm.partial = floats_at(at_before);
      check_cuda(launch_layer_norm_backward(norm, before_blocks, scope.stream()));
    }
  }
  Tensor dbefore_weight = vector(Of::kBeforeWeight, floats_at(at_before), before_blocks, c_in, 2 * c_in);
  Tensor dbefore_bias = vector(Of::kBeforeBias, floats_at(at_before) + c_in, before_blocks, c_in, 2 * c_in);
  if (jobs.count > 0) check_cuda(launch_sums(jobs, scope.stream()));
  return {std::move(dx),           std::move(dweight),       std::move(dbias),      std::move(dbefore_weight),
          std::move(dbefore_bias), std::move(dafter_weight), std::move(dafter_bias)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("patch_conv_cuda_bwd", TORCH_BOX(&cnv2::patch_conv_cuda_bwd));
}
