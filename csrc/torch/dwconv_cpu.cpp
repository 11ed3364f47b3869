// The CPU implementations of the depthwise convolution's operators: sparse_dwconv and dwconv_layer_norm.
#include <algorithm>
#include <tuple>
#include <utility>

#include "cpu/common/isa.h"
#include "cpu/common/scratch.h"
#include "cpu/dwconv/dwconv.h"
#include "dwconv_check.h"

namespace cnv2 {
namespace {

// Waking a thread costs microseconds: give each at least that much to do.
constexpr int64_t kPackedFloatsPerThread = 32 * 1024;
constexpr int64_t kMultiplyAddsPerThread = 256 * 1024;

void convolve(const DwconvForward& p) {
  const DwconvCpu& cpu = dwconv_cpu(current_cpu_isa());
  const DwconvCpuTiling t = cpu.tiling(p, torch::stable::get_num_threads());
  if (t.tiles == 0) return;
  float* packed = thread_scratch(ScratchSlot::kParameters, t.packed_floats);
  const int64_t block_floats = t.packed_floats / t.blocks;
  torch::stable::parallel_for(0, t.blocks, kPackedFloatsPerThread / block_floats + 1,
                              [&](int64_t begin, int64_t end) { cpu.pack(p, packed, begin, end); });
  const int64_t tile_work = t.rows * t.columns * p.c * kDwconvTaps;
  torch::stable::parallel_for(0, t.tiles, kMultiplyAddsPerThread / tile_work + 1, [&](int64_t begin, int64_t end) {
    cpu.run(p, t, packed, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
}

// The gradients of taps and bias, into `out` [50, C].
void sum_up(DwconvBackward p, const Tensor& x, float* out) {
  const DwconvCpu& cpu = dwconv_cpu(current_cpu_isa());
  const DwconvSumsTiling t = cpu.sums_tiling(p);
  const int64_t count = kDwconvSums * p.c;
  std::optional<Tensor> partial;
  p.partial = out;
  if (t.slabs > 1) {
    partial = torch::stable::new_empty(x, {t.slabs, kDwconvSums, p.c}, ScalarType::Float);
    p.partial = static_cast<float*>(partial->mutable_data_ptr());
  }
  const int64_t task_work = (t.tiles / t.slabs + 1) * t.rows * t.columns * (p.c / t.groups + 1) * kDwconvTaps;
  torch::stable::parallel_for(0, t.slabs * t.groups, kMultiplyAddsPerThread / (task_work + 1) + 1,
                              [&](int64_t begin, int64_t end) {
                                cpu.sums(p, t, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
                              });
  if (t.slabs == 1) return;
  torch::stable::parallel_for(0, count, kPackedFloatsPerThread, [&](int64_t begin, int64_t end) {
    std::copy(p.partial + begin, p.partial + end, out + begin);
    for (int64_t slab = 1; slab < t.slabs; ++slab) {
      for (int64_t i = begin; i < end; ++i) out[i] += p.partial[slab * count + i];
    }
  });
}

Tensor sparse_dwconv_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias, int64_t h, int64_t w,
                         const std::optional<Tensor>&, const std::optional<Tensor>& map, bool) {
  DwconvForward p = forward_params({"sparse_dwconv_fwd", x, kernel, map}, bias, h, w);
  Tensor y = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  convolve(p);
  return y;
}

// dx [T, C] (empty if not wanted) and float32 [50, C] (empty if not wanted).
std::tuple<Tensor, Tensor> sparse_dwconv_bwd(const Tensor& dy, const Tensor& x, const Tensor& kernel, bool of_input,
                                             bool of_params, int64_t h, int64_t w, const std::optional<Tensor>&,
                                             const std::optional<Tensor>& map, bool) {
  DwconvBackward p = backward_params({"sparse_dwconv_bwd", x, kernel, map}, dy, h, w);
  Tensor dx = of_input ? new_contiguous(x) : torch::stable::new_empty(x, {0, x.size(1)});
  Tensor dparams = torch::stable::new_empty(x, {of_params ? kDwconvSums : 0, x.size(1)}, ScalarType::Float);
  if (of_input) {
    p.dx = dx.mutable_data_ptr();
    convolve(input_gradient(p));
  }
  if (of_params) sum_up(p, x, static_cast<float*>(dparams.mutable_data_ptr()));
  return {std::move(dx), std::move(dparams)};
}

Tensor dwconv_layer_norm_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                             const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                             const std::optional<Tensor>&, const std::optional<Tensor>& map) {
  DwconvForward p = forward_params({"dwconv_layer_norm_fwd", x, kernel, map}, bias, ln_weight, ln_bias, eps, h, w);
  Tensor y = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  convolve(p);
  return y;
}

std::tuple<Tensor, Tensor> dwconv_layer_norm_fwd_train(const Tensor& x, const Tensor& kernel,
                                                       const std::optional<Tensor>& bias, const Tensor& ln_weight,
                                                       const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                                                       const std::optional<Tensor>&, const std::optional<Tensor>& map) {
  DwconvForward p =
      forward_params({"dwconv_layer_norm_fwd_train", x, kernel, map}, bias, ln_weight, ln_bias, eps, h, w);
  Tensor y = new_contiguous(x), z = new_contiguous(x);
  p.y = y.mutable_data_ptr();
  p.z = z.mutable_data_ptr();
  convolve(p);
  return {std::move(y), std::move(z)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CPU, m) {
  m.impl("sparse_dwconv_fwd", TORCH_BOX(&cnv2::sparse_dwconv_fwd));
  m.impl("sparse_dwconv_bwd", TORCH_BOX(&cnv2::sparse_dwconv_bwd));
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd));
  m.impl("dwconv_layer_norm_fwd_train", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train));
}
