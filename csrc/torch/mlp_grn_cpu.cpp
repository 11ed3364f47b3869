// The CPU implementations of mlp_grn's operators.
#include "cpu/mlp_grn/mlp_grn.h"

#include <tuple>
#include <utility>

#include "cpu/common/isa.h"
#include "groups.h"
#include "packed_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

// Refuses what is no contiguous matrix [rows, columns] in x's dtype or float32.
ConstArray matrix_of(const char* op, const char* name, const Tensor& x, int64_t rows, int64_t columns,
                     const Tensor& m) {
  if (m.dim() != 2 || m.size(0) != rows || m.size(1) != columns || !m.is_contiguous() || !(m.device() == x.device()) ||
      (m.scalar_type() != ScalarType::Float && m.scalar_type() != x.scalar_type()))
    refuse(op, std::string(name) + " does not fit: contiguous matrices in x's dtype or float32", describe("x", x),
           describe(name, m));
  return array_of(m);
}

ConstArray vector_of(const char* op, const char* name, const Tensor& x, int64_t count, const Tensor& v) {
  vector_dtype(op, name, x, count, v);
  return array_of(v);
}

MlpGrnShape shape_of(const RowGroups& groups, int64_t c_in, int64_t hidden, int64_t c_out, double eps,
                     int64_t held_bytes, DType activations) {
  return {groups, c_in, hidden, c_out, static_cast<float>(eps), held_bytes, activations};
}

// Weights that fit each other and activations in x's dtype; b2 may be absent.
MlpGrnWeights weights_of(const char* op, const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& beta,
                         const Tensor& w2, const Tensor* b2) {
  if (w1.dim() != 2 || w2.dim() != 2 || w1.size(0) < 1 || w1.size(1) < 1 || w2.size(0) < 1)
    refuse(op, "w1 must be [K, C], w2 [C', K]", describe("w1", w1), describe("w2", w2));
  const int64_t hidden = w1.size(0), c_out = w2.size(0);
  return {matrix_of(op, "w1", x, hidden, w1.size(1), w1), vector_of(op, "b1", x, hidden, b1),
          vector_of(op, "beta", x, hidden, beta), matrix_of(op, "w2", x, c_out, hidden, w2),
          b2 == nullptr ? ConstArray{nullptr, DType::kFloat32} : vector_of(op, "b2", x, c_out, *b2)};
}

Sources sources_of(const Tensor& w1, const Tensor& b1, const Tensor& beta, const Tensor& w2, const Tensor& b2) {
  return {strided_of(w1), strided_of(b1), strided_of(beta), strided_of(w2), strided_of(b2)};
}

// Packs sources in the order of sources_of, all of them contiguous.
auto packs(const MlpGrnCpu& cpu, const MlpGrnShape& shape, Parallel parallel) {
  return [&cpu, &shape, parallel](const Sources& s, float* memory) {
    cpu.pack(shape, {s[0].array, s[1].array, s[2].array, s[3].array, s[4].array}, memory, parallel);
  };
}

Tensor mlp_grn_cpu_pack(const Tensor& w1, const Tensor& b1, const Tensor& beta, const Tensor& w2, const Tensor& b2,
                        bool bfloat16) {
  weights_of("mlp_grn_cpu_pack", w1, w1, b1, beta, w2, &b2);
  const CpuIsa isa = current_cpu_isa();
  const MlpGrnCpu& cpu = mlp_grn_cpu(isa);
  const PackedKind kind{PackedOp::kMlpGrn, isa, packed_dtype(cpu, bfloat16 ? DType::kBFloat16 : DType::kFloat32)};
  const MlpGrnShape shape = shape_of({}, w1.size(1), w1.size(0), w2.size(0), 0, 0, kind.dtype);
  return new_packed(kind, sources_of(w1, b1, beta, w2, b2), cpu.packed_floats(shape), w1,
                    packs(cpu, shape, torch_parallel()));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_grn_cpu_fwd(
    const Tensor& u, const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta, const Tensor& w2,
    const Tensor& b2, const std::optional<Tensor>& residual, const std::optional<Tensor>& row_scale, double eps,
    int64_t held_bytes, int64_t rows_per_group, int64_t count, const std::optional<Tensor>& row_group,
    const std::optional<Tensor>& offsets, const std::optional<Tensor>& packed, bool save_hidden) {
  const char* op = "mlp_grn_cpu_fwd";
  const RowGroups groups = groups_of(op, u, rows_per_group, count, row_group, offsets);
  weights_of(op, u, w1, b1, beta, w2, &b2);
  const int64_t rows = u.size(0), hidden = w1.size(0), c_out = w2.size(0);
  if (w1.size(1) != u.size(1)) refuse(op, "w1 must have u's columns", describe("u", u), describe("w1", w1));
  const MlpGrnShape shape = shape_of(groups, u.size(1), hidden, c_out, eps, held_bytes, *dtype_of(u));
  const CpuIsa isa = current_cpu_isa();
  const MlpGrnCpu& cpu = mlp_grn_cpu(isa);
  const ScalarType type = residual.has_value() ? residual->scalar_type() : u.scalar_type();
  if (residual.has_value() &&
      (residual->dim() != 2 || residual->size(0) != rows || residual->size(1) != c_out || !residual->is_contiguous() ||
       !dtype_of(*residual).has_value() || !(residual->device() == u.device())))
    refuse(op, "residual must be contiguous [T, C']", describe("u", u), describe("residual", residual));
  if (row_scale.has_value() &&
      (row_scale->dim() != 1 || row_scale->scalar_type() != ScalarType::Float || !row_scale->is_contiguous() ||
       (rows > 0 && (row_scale->size(0) < 1 || rows % row_scale->size(0) != 0))))
    refuse(op, "row_scale must be contiguous float32 [R] with R dividing T", describe("u", u),
           describe("row_scale", row_scale));
  Tensor y = empty(u, {rows, c_out}, type), norm = floats(u, {count, hidden});
  const int64_t columns = saved_columns(hidden);
  Tensor saved_hidden = floats(u, {save_hidden ? rows + 1 : 0, columns});
  // Weights that are not packed beforehand are those of training, which change from step to step.
  const Parallel parallel = torch_parallel_in(!packed.has_value());
  PackedUse use =
      packed_or_new(op, packed, {PackedOp::kMlpGrn, isa, packed_dtype(cpu, shape.activations)},
                    sources_of(w1, b1, beta, w2, b2), cpu.packed_floats(shape), u, packs(cpu, shape, parallel));
  MlpGrnForward p{};
  p.shape = shape;
  p.u = array_of(u);
  p.packed = use.data;
  p.gamma = vector_of(op, "gamma", u, hidden, gamma);
  p.residual = residual.has_value() ? residual->const_data_ptr() : nullptr;
  p.row_scale = row_scale.has_value() ? static_cast<const float*>(row_scale->const_data_ptr()) : nullptr;
  p.scale_rows = row_scale.has_value() && rows > 0 ? rows / row_scale->size(0) : 1;
  p.y = y.mutable_data_ptr();
  p.y_dtype = *dtype_of(y);
  p.norm = float_data(norm);
  if (save_hidden) {
    const PackedKind kind{PackedOp::kSavedHidden, isa, shape.activations};
    p.saved_hidden = start_packed_rows(kind, columns, rows * columns, float_data(saved_hidden));
  }
  cpu.forward(p, parallel);
  return {std::move(y), std::move(norm), std::move(saved_hidden), std::move(use.repacked)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mlp_grn_cpu_bwd(
    const Tensor& dy, const Tensor& u, const Tensor& w1, const Tensor& b1, const Tensor& gamma, const Tensor& beta,
    const Tensor& w2, const Tensor& norm, double eps, int64_t held_bytes, int64_t rows_per_group, int64_t count,
    const std::optional<Tensor>& row_group, const std::optional<Tensor>& offsets,
    const std::optional<Tensor>& saved_hidden) {
  const char* op = "mlp_grn_cpu_bwd";
  const RowGroups groups = groups_of(op, u, rows_per_group, count, row_group, offsets);
  const int64_t c_in = u.size(1), hidden = gamma.numel(), c_out = w2.dim() == 2 ? w2.size(0) : 0;
  if (w1.dim() != 2 || w1.size(1) != c_in) refuse(op, "w1 must have u's columns", describe("u", u), describe("w1", w1));
  MlpGrnBackward p{};
  p.shape = shape_of(groups, c_in, hidden, c_out, eps, held_bytes, *dtype_of(u));
  p.weights = weights_of(op, u, w1, b1, beta, w2, nullptr);
  p.dy = matrix_of(op, "dy", u, u.size(0), c_out, dy);
  p.u = array_of(u);
  p.gamma = vector_of(op, "gamma", u, hidden, gamma);
  p.norm = of_groups(op, "norm", u, groups, hidden, norm);
  const CpuIsa isa = current_cpu_isa();
  if (saved_hidden.has_value()) {
    const int64_t columns = saved_columns(hidden), count = u.size(0) * columns;
    const ConstArray saved = matrix_of(op, "saved_hidden", norm, u.size(0) + 1, columns, *saved_hidden);
    const auto* memory = static_cast<const float*>(saved.data);
    const std::string mismatch =
        packed_mismatch({PackedOp::kSavedHidden, isa, p.shape.activations}, count, memory, saved_hidden->numel());
    if (!mismatch.empty())
      refuse(op, "saved_hidden must come from this operator's forward, on this instruction set, for this dtype",
             describe("saved_hidden", *saved_hidden), mismatch);
    p.saved_hidden = memory + columns;
  }
  Tensor du = new_contiguous(u), dw1 = floats(u, {hidden, c_in}), db1 = floats(u, {hidden});
  Tensor dgamma = floats(u, {hidden}), dbeta = floats(u, {hidden});
  Tensor dw2 = floats(u, {c_out, hidden}), db2 = floats(u, {c_out});
  p.du = du.mutable_data_ptr();
  p.dw1 = float_data(dw1), p.db1 = float_data(db1), p.dgamma = float_data(dgamma), p.dbeta = float_data(dbeta);
  p.dw2 = float_data(dw2), p.db2 = float_data(db2);
  mlp_grn_cpu(isa).backward(p, torch_parallel_in(true));
  return {std::move(du),    std::move(dw1), std::move(db1), std::move(dgamma),
          std::move(dbeta), std::move(dw2), std::move(db2)};
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::mlp_grn_cpu_pack>("mlp_grn_cpu_pack");
  m.add<&cnv2::mlp_grn_cpu_fwd>("mlp_grn_cpu_fwd");
  m.add<&cnv2::mlp_grn_cpu_bwd>("mlp_grn_cpu_bwd");
}
