// The CPU implementations of patch_conv's operators.
#include "cpu/patch_conv/patch_conv.h"

#include <tuple>
#include <utility>

#include "cpu/common/isa.h"
#include "groups.h"
#include "packed_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

// Refuses what are no two contiguous vectors [channels] in x's dtype or float32.
PatchNorm norm_of(const char* op, const Tensor& x, int64_t channels, const std::optional<Tensor>& weight,
                  const std::optional<Tensor>& bias) {
  if (!weight.has_value() && !bias.has_value()) return {};
  if (!weight.has_value() || !bias.has_value()) refuse(op, "a norm has a weight and a bias", describe("x", x));
  vector_dtype(op, "norm_weight", x, channels, *weight);
  vector_dtype(op, "norm_bias", x, channels, *bias);
  return {array_of(*weight), array_of(*bias)};
}

// The sizes of a weight [Cout, Cin, k, k] of nn.Conv2d, or [k * k, Cin, Cout] with tap = kx * k + ky, of any strides.
PatchWeight weight_of(const char* op, const Tensor& weight, const std::optional<Tensor>& bias, DType activations) {
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("weight", weight), describe("bias", bias));
  };
  need(dtype_of(weight).has_value() && weight.numel() > 0, "weight must be float32, bfloat16 or float16, not empty");
  PatchWeight w{};
  w.activations = activations;
  if (weight.dim() == 4) {
    need(weight.size(2) == weight.size(3), "weight must be [Cout, Cin, k, k]");
    w.c_out = weight.size(0), w.c_in = weight.size(1), w.k = weight.size(2);
  } else {
    need(weight.dim() == 3, "weight must be [Cout, Cin, k, k] or [k * k, Cin, Cout]");
    while (w.k * w.k < weight.size(0)) ++w.k;
    need(w.k * w.k == weight.size(0), "weight must be [Cout, Cin, k, k] or [k * k, Cin, Cout]");
    w.c_in = weight.size(1), w.c_out = weight.size(2);
  }
  if (bias.has_value()) vector_dtype(op, "bias", weight, w.c_out, *bias);
  return w;
}

// Packs {weight, bias}, of any strides; w: their sizes.
auto packs(const PatchConvCpu& cpu, PatchWeight w) {
  return [&cpu, w](const Sources& sources, float* memory) {
    const StridedArray& weight = sources[0];
    const int64_t* strides = weight.strides;
    PatchWeight full = w;
    full.data = weight.array, full.bias = sources[1].array;
    if (weight.dims == 4) {
      full.c_out_stride = strides[0], full.c_in_stride = strides[1];
      full.ky_stride = strides[2], full.kx_stride = strides[3];
    } else {
      full.c_in_stride = strides[1], full.c_out_stride = strides[2];
      full.ky_stride = strides[0], full.kx_stride = w.k * strides[0];
    }
    cpu.pack(full, memory, torch_parallel());
  };
}

PackedKind packed_kind(CpuIsa isa, DType activations) {
  return {PackedOp::kPatchConv, isa, packed_dtype(patch_conv_cpu(isa), activations)};
}

Tensor patch_conv_cpu_pack(const Tensor& weight, const std::optional<Tensor>& bias, bool bfloat16) {
  const DType activations = bfloat16 ? DType::kBFloat16 : DType::kFloat32;
  const PatchWeight w = weight_of("patch_conv_cpu_pack", weight, bias, activations);
  const CpuIsa isa = current_cpu_isa();
  const PatchConvCpu& cpu = patch_conv_cpu(isa);
  return new_packed(packed_kind(isa, activations), {strided_of(weight), strided_of(bias)}, cpu.packed_floats(w), weight,
                    packs(cpu, w));
}

// Which of the `pixels` the rows of p take: ops/_patch_conv/gather.py. need(ok, wants) refuses.
template <class Need>
void set_table(PatchConvForward& p, const std::optional<Tensor>& table, int64_t pixels, const Need& need) {
  if (table.has_value()) {
    need(table->scalar_type() == ScalarType::Long && table->is_contiguous() && table->size(0) == p.rows &&
             (table->dim() == 1 || (table->dim() == 2 && table->size(1) == p.k * p.k)),
         "table must be contiguous int64 [rows], or [rows, k * k] for x [S, Cin]");
    p.table = static_cast<const int64_t*>(table->const_data_ptr());
    p.table_columns = table->dim() == 1 ? 1 : p.k * p.k;
  }
  const int64_t cells = p.height / p.k * (p.width / p.k), plane = p.height * p.width;
  if (p.rows > 0 && !(table.has_value() && table->dim() == 2))
    need(cells > 0 && pixels % plane == 0 && (table.has_value() || pixels / plane * cells == p.rows),
         "rows must be those of the plane [N, H // k, W // k]");
}

// x [N, H, W, Cin] of any strides; [S, Cin], contiguous, where a table of k * k columns or the plane's sizes say how.
std::tuple<Tensor, Tensor> patch_conv_cpu_fwd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                                              const std::optional<Tensor>& before_weight,
                                              const std::optional<Tensor>& before_bias,
                                              const std::optional<Tensor>& after_weight,
                                              const std::optional<Tensor>& after_bias, double eps,
                                              const std::optional<Tensor>& table, int64_t rows, int64_t height,
                                              int64_t width, int64_t k, const std::optional<Tensor>& packed) {
  const char* op = "patch_conv_cpu_fwd";
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("x", x), describe("weight", weight), describe("table", table));
  };
  need((x.dim() == 4 || (x.dim() == 2 && x.is_contiguous())) && dtype_of(x).has_value(),
       "x must be [N, H, W, Cin], or contiguous [S, Cin], in float32, bfloat16 or float16");
  const PatchWeight w = weight_of(op, weight, bias, *dtype_of(x));
  const int64_t c_in = w.c_in, c_out = w.c_out;
  need(w.k == k && x.size(x.dim() - 1) == c_in && rows >= 0, "weight must have x's channels and edge k");
  const CpuIsa isa = current_cpu_isa();
  const PatchConvCpu& cpu = patch_conv_cpu(isa);
  PatchConvForward p{};
  p.x = array_of(x);
  p.rows = rows, p.k = k, p.c_in = c_in, p.c_out = c_out;
  p.height = height, p.width = width;
  int64_t pixels = x.size(0);
  if (x.dim() == 4) {
    need(x.size(1) == height && x.size(2) == width, "height and width must be x's");
    p.sample_stride = x.stride(0), p.row_stride = x.stride(1), p.pixel_stride = x.stride(2);
    p.channel_stride = x.stride(3);
    pixels *= height * width;
  } else {
    p.pixel_stride = c_in, p.row_stride = width * c_in, p.sample_stride = height * width * c_in;
    p.channel_stride = 1;
  }
  need(!table.has_value() || table->dim() == 1 || x.dim() == 2, "a table of k * k columns is for x [S, Cin]");
  set_table(p, table, pixels, need);
  // Weights that are not packed beforehand are those of training, which change from step to step.
  const Parallel parallel = torch_parallel_in(!packed.has_value());
  PackedUse use = packed_or_new(op, packed, packed_kind(isa, w.activations), {strided_of(weight), strided_of(bias)},
                                cpu.packed_floats(w), x, packs(cpu, w));
  p.packed = use.data;
  p.before = norm_of(op, x, c_in, before_weight, before_bias);
  p.after = norm_of(op, x, c_out, after_weight, after_bias);
  p.eps = static_cast<float>(eps);
  Tensor z = empty(x, {rows, c_out}, x.scalar_type());
  p.y = z.mutable_data_ptr();
  cpu.run(p, parallel);
  return {std::move(z), std::move(use.repacked)};
}

// Where the rows of a product lie in x [S, Cin], for gradients: `x` says in which dtype, of `pixels` rows.
PatchConvForward rows_of(const char* op, const Tensor& x, int64_t pixels, int64_t c_in, const Tensor& dz,
                         const std::optional<Tensor>& table, int64_t rows, int64_t height, int64_t width, int64_t k) {
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("x", x), describe("dz", dz), describe("table", table));
  };
  need(x.dim() == 2 && x.is_contiguous() && dtype_of(x).has_value() && c_in >= 1 && k >= 1 && rows >= 0,
       "wants contiguous rows in float32, bfloat16 or float16");
  need(dz.dim() == 2 && dz.is_contiguous() && dz.scalar_type() == x.scalar_type() && dz.size(0) == rows &&
           dz.size(1) >= 1,
       "dz must be contiguous [rows, Cout] in x's dtype");
  PatchConvForward p{};
  p.rows = rows, p.k = k, p.c_in = c_in, p.c_out = dz.size(1);
  p.height = height, p.width = width;
  p.pixel_stride = c_in, p.row_stride = width * c_in, p.sample_stride = height * width * c_in;
  p.channel_stride = 1;
  set_table(p, table, pixels, need);
  p.x.dtype = *dtype_of(x);
  return p;
}

std::tuple<Tensor, Tensor> patch_conv_cpu_dparams(const Tensor& dz, const Tensor& x,
                                                  const std::optional<Tensor>& norm_weight,
                                                  const std::optional<Tensor>& norm_bias, double eps,
                                                  const std::optional<Tensor>& table, int64_t rows, int64_t height,
                                                  int64_t width, int64_t k) {
  const char* op = "patch_conv_cpu_dparams";
  const int64_t c_in = x.dim() == 2 ? x.size(1) : 0;
  PatchParameterGradients p{};
  p.of = rows_of(op, x, x.size(0), c_in, dz, table, rows, height, width, k);
  p.of.x = array_of(x);
  p.of.before = norm_of(op, x, c_in, norm_weight, norm_bias);
  p.of.eps = static_cast<float>(eps);
  p.dz = array_of(dz);
  Tensor dweight = floats(x, {p.of.c_out, k * k * c_in}), dbias = floats(x, {p.of.c_out});
  p.dweight = float_data(dweight), p.dbias = float_data(dbias);
  patch_conv_cpu(current_cpu_isa()).parameter_gradients(p, torch_parallel_in(true));
  return {std::move(dweight), std::move(dbias)};
}

Tensor patch_conv_cpu_dx(const Tensor& dz, const Tensor& weight, int64_t sources, bool covers,
                         const std::optional<Tensor>& table, int64_t rows, int64_t height, int64_t width, int64_t k) {
  const char* op = "patch_conv_cpu_dx";
  const int64_t c_in = weight.dim() == 2 && k >= 1 ? weight.size(1) / (k * k) : 0;
  PatchInputGradient p{};
  p.of = rows_of(op, dz, sources, c_in, dz, table, rows, height, width, k);
  if (weight.size(0) != p.of.c_out || weight.size(1) != c_in * k * k || !weight.is_contiguous() ||
      !dtype_of(weight).has_value() || !(weight.device() == dz.device()))
    refuse(op, "weight must be contiguous [Cout, k * k * Cin]", describe("dz", dz), describe("weight", weight));
  Tensor dx = empty(dz, {sources, c_in}, dz.scalar_type());
  p.dz = array_of(dz), p.weight = array_of(weight);
  p.dx = dx.mutable_data_ptr();
  p.pixels = sources, p.covers = covers;
  patch_conv_cpu(current_cpu_isa()).input_gradient(p, torch_parallel_in(true));
  return dx;
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::patch_conv_cpu_pack>("patch_conv_cpu_pack");
  m.add<&cnv2::patch_conv_cpu_fwd>("patch_conv_cpu_fwd");
  m.add<&cnv2::patch_conv_cpu_dparams>("patch_conv_cpu_dparams");
  m.add<&cnv2::patch_conv_cpu_dx>("patch_conv_cpu_dx");
}
