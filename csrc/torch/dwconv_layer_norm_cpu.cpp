// The CPU implementations of dwconv_layer_norm's operators.
#include "cnv2/dwconv_layer_norm.h"

#include <tuple>
#include <utility>

#include "cpu/dwconv_layer_norm/dwconv_layer_norm.h"
#include "cpu/isa.h"
#include "cpu/scratch.h"
#include "tensor_utils.h"

namespace cnv2 {
namespace {

struct DwconvLayerNormCall {
  DwconvLayerNormParams params;
  Tensor y;
  std::optional<Tensor> z;
};

// Refuses what the kernels cannot run, allocates the outputs and fills in the parameters.
// `x` [N * H * W, C], `kernel` [49, C], `bias`, `ln_weight`, `ln_bias` [C]; `train` asks for z.
DwconvLayerNormCall prepare(const char* op, const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                            const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                            bool sparse, bool train) {
  const auto need = [&](bool ok, const char* wants) {
    if (ok) return;
    refuse(op, wants, describe("x", x), describe("kernel", kernel), describe("bias", bias),
           describe("ln_weight", ln_weight), describe("ln_bias", ln_bias));
  };
  need(!sparse, "the CPU kernels take dense planes only");
  need(x.dim() == 2, "x must be rows [T, C]");
  const int64_t c = x.size(1);
  need(h >= 1 && w >= 1 && c >= 1, "H, W and C must be at least 1");
  need(x.size(0) % (h * w) == 0, "T must be a multiple of H * W");
  need(kernel.dim() == 2 && kernel.size(0) == kTaps && kernel.size(1) == c, "kernel must be [49, C]");
  const auto is_vector = [&](const Tensor& t) { return t.dim() == 1 && t.size(0) == c; };
  need((!bias.has_value() || is_vector(*bias)) && is_vector(ln_weight) && is_vector(ln_bias),
       "bias, ln_weight and ln_bias must be [C]");
  const auto dtype = dtype_of(x);
  need(dtype.has_value(), "x must be float32, bfloat16 or float16");
  const ScalarType param_type = kernel.scalar_type();
  need((param_type == x.scalar_type() || param_type == ScalarType::Float) && ln_weight.scalar_type() == param_type &&
           ln_bias.scalar_type() == param_type && (!bias.has_value() || bias->scalar_type() == param_type),
       "the parameters must all have x's dtype, or all be float32");
  const auto device = x.device();
  need(kernel.device() == device && ln_weight.device() == device && ln_bias.device() == device &&
           (!bias.has_value() || bias->device() == device),
       "all tensors must be on one device");
  need(x.is_contiguous() && kernel.is_contiguous() && ln_weight.is_contiguous() && ln_bias.is_contiguous() &&
           (!bias.has_value() || bias->is_contiguous()),
       "all tensors must be contiguous");

  DwconvLayerNormCall call{{}, new_contiguous(x), {}};
  DwconvLayerNormParams& p = call.params;
  p.n = x.size(0) / (h * w);
  p.h = h;
  p.w = w;
  p.c = c;
  p.x = x.const_data_ptr();
  p.kernel = kernel.const_data_ptr();
  p.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
  p.ln_weight = ln_weight.const_data_ptr();
  p.ln_bias = ln_bias.const_data_ptr();
  p.y = call.y.mutable_data_ptr();
  p.eps = static_cast<float>(eps);
  p.dtype = *dtype;
  p.param_dtype = *dtype_of(kernel);
  if (train) {
    call.z = new_contiguous(x);
    p.z = call.z->mutable_data_ptr();
  }
  return call;
}

void run(const DwconvLayerNormParams& p) {
  const DwconvLayerNormCpu& cpu = dwconv_layer_norm_cpu(current_cpu_isa());
  const DwconvLayerNormTiling t = cpu.tiling(p, torch::stable::get_num_threads());
  float* packed = thread_scratch(ScratchSlot::kParameters, t.packed_floats);
  // Waking a thread costs microseconds: give each at least that much to do.
  constexpr int64_t kPackedFloatsPerThread = 32 * 1024;
  constexpr int64_t kMultiplyAddsPerThread = 256 * 1024;
  const int64_t block_floats = t.packed_floats / t.blocks;
  torch::stable::parallel_for(0, t.blocks, kPackedFloatsPerThread / block_floats + 1,
                              [&](int64_t begin, int64_t end) { cpu.pack(p, packed, begin, end); });
  const int64_t tile_work = t.rows * t.columns * p.c * kTaps;
  torch::stable::parallel_for(0, t.tiles, kMultiplyAddsPerThread / tile_work + 1, [&](int64_t begin, int64_t end) {
    cpu.run(p, t, packed, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
}

Tensor dwconv_layer_norm_fwd(const Tensor& x, const Tensor& kernel, const std::optional<Tensor>& bias,
                             const Tensor& ln_weight, const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                             const std::optional<Tensor>&, const std::optional<Tensor>& map) {
  DwconvLayerNormCall call =
      prepare("dwconv_layer_norm_fwd", x, kernel, bias, ln_weight, ln_bias, eps, h, w, map.has_value(), false);
  if (call.params.n > 0) run(call.params);
  return std::move(call.y);
}

std::tuple<Tensor, Tensor> dwconv_layer_norm_fwd_train(const Tensor& x, const Tensor& kernel,
                                                       const std::optional<Tensor>& bias, const Tensor& ln_weight,
                                                       const Tensor& ln_bias, double eps, int64_t h, int64_t w,
                                                       const std::optional<Tensor>&, const std::optional<Tensor>& map) {
  DwconvLayerNormCall call =
      prepare("dwconv_layer_norm_fwd_train", x, kernel, bias, ln_weight, ln_bias, eps, h, w, map.has_value(), true);
  if (call.params.n > 0) run(call.params);
  return {std::move(call.y), std::move(*call.z)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CPU, m) {
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd));
  m.impl("dwconv_layer_norm_fwd_train", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train));
}
