// The CUDA implementations of patch_conv's operators.
#include "cuda/patch_conv/patch_conv.h"

#include "cuda/layer_norm/layer_norm.h"
#include "cuda_scope.h"

namespace cnv2 {
namespace {

// Refuses what the kernels cannot run. `rows`, `height`, `width`, `k`: as src/convnextv2_fast/ops/_patch_conv/gather.py
// says.
PatchBlocks blocks_of(const char* op, const Tensor& x, const std::optional<Tensor>& table, int64_t rows, int64_t height,
                      int64_t width, int64_t k) {
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("x", x), describe("table", table));
  };
  need(x.dim() == 2 && x.is_contiguous(), "x must be contiguous rows");
  need(dtype_of(x).has_value(), "x must be float32, bfloat16 or float16");
  need(k >= 1 && height >= 1 && width >= 1 && height < (1 << 30) && width < (1 << 30), "k, H and W must be positive");
  PatchBlocks b{
      nullptr, BlockTable::kNone, rows, static_cast<int>(height), static_cast<int>(width), static_cast<int>(k)};
  if (!table.has_value()) {
    need(rows == 0 || (height >= k && width >= k), "H and W must be at least k");
    return b;
  }
  need(table->scalar_type() == ScalarType::Long && table->is_contiguous() && table->device() == x.device() &&
           table->size(0) == rows && (table->dim() == 1 || (table->dim() == 2 && table->size(1) == k * k)),
       "table must be contiguous int64 [rows] or [rows, k*k]");
  b.table = static_cast<const int64_t*>(table->const_data_ptr());
  b.kind = table->dim() == 1 ? BlockTable::kSites : BlockTable::kChildren;
  return b;
}

Tensor patch_conv_gather(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                         double eps, const std::optional<Tensor>& table, int64_t rows, int64_t height, int64_t width,
                         int64_t k) {
  const char* op = "patch_conv_gather";
  const PatchBlocks blocks = blocks_of(op, x, table, rows, height, width, k);
  const int64_t c = x.size(1);
  Tensor out = empty(x, {rows, k * k * c}, x.scalar_type());
  const CudaScope scope(x);
  if (!weight.has_value()) {
    const auto size = static_cast<int64_t>(x.element_size());
    check_cuda(launch_patch_gather({x.const_data_ptr(), out.mutable_data_ptr(), blocks, c, size}, scope.stream()));
    return out;
  }
  const auto fits = [&](const std::optional<Tensor>& v) {
    return v.has_value() && v->dim() == 1 && v->size(0) == c && v->is_contiguous() && v->device() == x.device() &&
           v->scalar_type() == weight->scalar_type() &&
           (v->scalar_type() == ScalarType::Float || v->scalar_type() == x.scalar_type());
  };
  if (!fits(weight) || !fits(bias) || c > kLayerNormWidest)
    refuse(op, "norm_weight and norm_bias must be contiguous [C] of one dtype, x's or float32, C at most 8192",
           describe("x", x), describe("norm_weight", weight), describe("norm_bias", bias));
  check_cuda(launch_patch_gather_norm(
      {x.const_data_ptr(), weight->const_data_ptr(), bias->const_data_ptr(), out.mutable_data_ptr(), blocks, c,
       static_cast<float>(eps), *dtype_of(x), *dtype_of(*weight)},
      scope.stream()));
  return out;
}

// Blocks [rows, k*k*C] back to [sources, C]; `covers`: every source row belongs to a block, else the others get zeros.
Tensor patch_conv_scatter(const Tensor& blocks, int64_t sources, bool covers, const std::optional<Tensor>& table,
                          int64_t rows, int64_t height, int64_t width, int64_t k) {
  const PatchBlocks b = blocks_of("patch_conv_scatter", blocks, table, rows, height, width, k);
  if (blocks.size(0) != rows || blocks.size(1) % (k * k) != 0)
    refuse("patch_conv_scatter", "blocks must be [rows, k*k*C]", describe("blocks", blocks));
  const int64_t c = blocks.size(1) / (k * k), size = static_cast<int64_t>(blocks.element_size());
  const CudaScope scope(blocks);
  Tensor out =
      covers ? empty(blocks, {sources, c}, blocks.scalar_type()) : torch::stable::new_zeros(blocks, {sources, c});
  check_cuda(launch_patch_scatter({blocks.const_data_ptr(), out.mutable_data_ptr(), b, c, size}, scope.stream()));
  return out;
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("patch_conv_gather", TORCH_BOX(&cnv2::patch_conv_gather));
  m.impl("patch_conv_scatter", TORCH_BOX(&cnv2::patch_conv_scatter));
}
