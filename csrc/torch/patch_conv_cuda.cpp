// The CUDA implementations of patch_conv's forward operators: blocks are gathered for the framework's product, with one
// allocation for what is between the kernels.
#include "patch_conv_cuda.h"

#include <tuple>
#include <utility>

namespace cnv2 {

PatchBlocks check_patch_conv(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const PatchConvNorm& before, const PatchConvNorm& after, const PatchConvPlaces& places) {
  const int64_t k = places.k, height = places.height, width = places.width;
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("x", x), describe("weight", weight), describe("table", places.table));
  };
  need(
      (x.dim() == 4 || (x.dim() == 2 && !places.planes)) && places.in_rows(x, places.planes) && dtype_of(x).has_value(),
      "x must be contiguous, planes in channels_last, in float32, bfloat16 or float16");
  const int64_t c = places.channels(x);
  const auto fits = [&](const Tensor& t) {
    return t.device() == x.device() && (t.scalar_type() == ScalarType::Float || t.scalar_type() == x.scalar_type());
  };
  const bool by_taps = weight.dim() == 3;
  need(k >= 1 && c >= 1 && fits(weight) && (weight.is_contiguous() || in_channels_last(weight)) &&
           (by_taps ? weight.size(0) == k * k : weight.dim() == 4 && weight.size(2) == k && weight.size(3) == k) &&
           weight.size(1) == c && weight.numel() > 0,
       "weight must be contiguous or in channels_last, [Cout, Cin, k, k] or [k*k, Cin, Cout], in x's dtype or float32, "
       "on its device");
  const int64_t c_out = weight.size(by_taps ? 2 : 0);
  const auto vector = [&](const Tensor& v, int64_t size) {
    return fits(v) && v.dim() == 1 && v.size(0) == size && v.is_contiguous();
  };
  if (bias.has_value() && !vector(*bias, c_out))
    refuse(op, "bias must be contiguous [Cout], in x's dtype or float32", describe("x", x), describe("bias", bias));
  const auto norm = [&](const PatchConvNorm& n, int64_t size, const char* name) {
    if (!n) return;
    const bool biased =
        n.bias == nullptr || (vector(*n.bias, size) && n.bias->scalar_type() == n.weight->scalar_type());
    if (!vector(*n.weight, size) || !biased || size > kLayerNormWidest)
      refuse(op,
             std::string("norm_") + name +
                 " must be two contiguous vectors of one dtype, x's or float32, of at most 8192 channels",
             describe("x", x), describe("norm_weight", n.weight));
  };
  norm(before, c, "before");
  norm(after, c_out, "after");

  need(height >= 1 && width >= 1 && height < (1 << 30) && width < (1 << 30), "H and W must be positive");
  const int64_t sources = x.numel() / c, plane = height * width, rows = places.rows;
  const int h = places.planes ? 2 : 1;
  need(x.dim() == 2 || (x.size(h) == height && x.size(h + 1) == width), "x must have the plane H, W");
  PatchBlocks b{
      nullptr, BlockTable::kNone, rows, static_cast<int>(height), static_cast<int>(width), static_cast<int>(k)};
  if (!places.table.has_value()) {
    need(rows == 0 || (height >= k && width >= k), "H and W must be at least k");
    need(sources % plane == 0 && rows == sources / plane * (height / k) * (width / k),
         "x must have rows of whole planes");
    return b;
  }
  const Tensor& table = *places.table;
  need(table.scalar_type() == ScalarType::Long && table.is_contiguous() && table.device() == x.device() &&
           (table.dim() == 1 || (table.dim() == 2 && table.size(1) == k * k)) && table.size(0) == rows,
       "table must be contiguous int64 [rows] or [rows, k*k]");
  b.table = static_cast<const int64_t*>(table.const_data_ptr());
  b.kind = table.dim() == 1 ? BlockTable::kSites : BlockTable::kChildren;
  return b;
}

void gather_blocks(const Tensor& x, const PatchConvNorm& before, double eps, const PatchBlocks& blocks, int64_t c_in,
                   void* out, cudaStream_t stream) {
  if (!before) {
    const auto size = static_cast<int64_t>(x.element_size());
    check_cuda(launch_patch_gather({x.const_data_ptr(), out, blocks, c_in, size}, stream));
    return;
  }
  check_cuda(launch_patch_gather_norm({x.const_data_ptr(), before.weight->const_data_ptr(), before.bias_data(), out,
                                       blocks, c_in, static_cast<float>(eps), *dtype_of(x), *dtype_of(*before.weight)},
                                      stream));
}

namespace {

struct PatchConvForward {
  Tensor out;
  std::optional<Tensor> z, weights;  // for backward: what the norm after the convolution reads; the weight's copies
};

PatchConvForward forward(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                         const PatchConvNorm& before, const PatchConvNorm& after, double eps,
                         const PatchConvPlaces& places, bool train) {
  const PatchBlocks blocks = check_patch_conv(op, x, weight, bias, before, after, places);
  const CudaScope scope(x);
  const ScalarType type = x.scalar_type();
  const int64_t t = places.rows, size = static_cast<int64_t>(x.element_size());

  // Inference has the weight's copies in the scratch; backward wants them in memory of their own.
  Pieces pieces, own;
  const PatchConvWeights weights(x, weight, bias, places.k, train ? &own : &pieces);
  const int64_t c = weights.c_out();
  const int64_t at_blocks = pieces.place(t * weights.depth() * size);
  const int64_t at_z = after && !train ? pieces.place(t * c * size) : 0;
  const Tensor scratch = empty(x, {pieces.size()}, ScalarType::Byte);
  PatchConvForward made{places.result(x, c), {}, {}};
  if (train) {
    made.weights = empty(x, {own.size()}, ScalarType::Byte);
    made.z = empty(x, {after ? t : 0, c}, type);
  }
  const Tensor& copies = train ? *made.weights : scratch;
  weights.fill(copies, scope.stream());

  char* const base = static_cast<char*>(scratch.mutable_data_ptr());
  gather_blocks(x, before, eps, blocks, weights.c_in(), base + at_blocks, scope.stream());
  const Tensor operand = pool_view(scratch, at_blocks, type, {t, weights.depth()});
  const Tensor z = !after ? rows_view(made.out, t, c) : train ? *made.z : pool_view(scratch, at_z, type, {t, c});
  if (bias.has_value())
    product_plus(z, operand, weights.matrix(copies), weights.bias(copies));
  else
    product(z, operand, weights.matrix(copies));
  if (after)
    check_cuda(launch_layer_norm_forward(
        {z.const_data_ptr(), after.weight->const_data_ptr(), after.bias_data(), made.out.mutable_data_ptr(), t, c,
         static_cast<float>(eps), *dtype_of(x), *dtype_of(*after.weight)},
        scope.stream()));
  return made;
}

Tensor patch_conv_cuda_fwd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                           const std::optional<Tensor>& before_weight, const std::optional<Tensor>& before_bias,
                           const std::optional<Tensor>& after_weight, const std::optional<Tensor>& after_bias,
                           double eps, bool planes, const std::optional<Tensor>& table, int64_t rows, int64_t height,
                           int64_t width, int64_t k) {
  const PatchConvPlaces places{planes, table, rows, height, width, k};
  return forward("patch_conv_cuda_fwd", x, weight, bias, {before_weight, pointer(before_bias)},
                 {after_weight, pointer(after_bias)}, eps, places, false)
      .out;
}

std::tuple<Tensor, Tensor, Tensor> patch_conv_cuda_fwd_train(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& before_weight, const std::optional<Tensor>& before_bias,
    const std::optional<Tensor>& after_weight, const std::optional<Tensor>& after_bias, double eps, bool planes,
    const std::optional<Tensor>& table, int64_t rows, int64_t height, int64_t width, int64_t k) {
  const PatchConvPlaces places{planes, table, rows, height, width, k};
  PatchConvForward made = forward("patch_conv_cuda_fwd_train", x, weight, bias, {before_weight, pointer(before_bias)},
                                  {after_weight, pointer(after_bias)}, eps, places, true);
  return {std::move(made.out), std::move(*made.z), std::move(*made.weights)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("patch_conv_cuda_fwd", TORCH_BOX(&cnv2::patch_conv_cuda_fwd));
  m.impl("patch_conv_cuda_fwd_train", TORCH_BOX(&cnv2::patch_conv_cuda_fwd_train));
}
