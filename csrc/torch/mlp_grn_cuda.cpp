// The CUDA implementations of mlp_grn's operators, which stand around matrix products of the framework.
#include "cuda/mlp_grn/mlp_grn.h"

#include <tuple>
#include <utility>

#include "grn_cuda.h"

namespace cnv2 {
namespace {

// a [T, K], norm and scale float32 [G, K]
std::tuple<Tensor, Tensor, Tensor> mlp_grn_activate(const Tensor& h, const Tensor& b1, const Tensor& gamma, double eps,
                                                    int64_t rows_per_group, int64_t count,
                                                    const std::optional<Tensor>& row_group,
                                                    const std::optional<Tensor>& offsets) {
  const char* op = "mlp_grn_activate";
  const RowGroups groups = groups_of(op, h, rows_per_group, count, row_group, offsets);
  const DType b1_dtype = vector_dtype(op, "b1", h, h.size(1), b1);
  Tensor a = new_contiguous(h);
  const CudaScope scope(h);
  GroupShape shape{groups, h.size(1), *dtype_of(h), rows_of_vectors(h, a)};
  GrnNorms norms = grn_norms(op, h, gamma, eps, &shape);
  const MlpActivate p{h.const_data_ptr(), b1.const_data_ptr(), a.mutable_data_ptr(), b1_dtype};
  check_cuda(launch_mlp_activate(shape, p, norms.params, {}, scope.stream()));
  return {std::move(a), std::move(norms.norm), std::move(norms.scale)};
}

// a scale + beta
Tensor mlp_grn_scale(const Tensor& a, const Tensor& scale, const Tensor& beta, int64_t rows_per_group, int64_t count,
                     const std::optional<Tensor>& row_group, const std::optional<Tensor>& offsets) {
  const char* op = "mlp_grn_scale";
  const RowGroups groups = groups_of(op, a, rows_per_group, count, row_group, offsets);
  const int64_t k = a.size(1);
  const DType beta_dtype = vector_dtype(op, "beta", a, k, beta);
  Tensor g = new_contiguous(a);
  const CudaScope scope(a);
  const GrnApply p{a.const_data_ptr(), of_groups(op, "scale", a, groups, k, scale), beta.const_data_ptr(),
                   g.mutable_data_ptr(), beta_dtype};
  check_cuda(launch_grn_apply({groups, k, *dtype_of(a), rows_of_vectors(a, g)}, p, scope.stream()));
  return g;
}

// w2 [C', K] scaled for each group: [G, C', K]
Tensor mlp_grn_scale_weight(const Tensor& w2, const Tensor& scale) {
  if (w2.dim() != 2 || !w2.is_contiguous() || !dtype_of(w2).has_value() || scale.dim() != 2 ||
      scale.size(1) != w2.size(1) || !scale.is_contiguous() || scale.scalar_type() != ScalarType::Float ||
      !(scale.device() == w2.device()))
    refuse("mlp_grn_scale_weight", "wants contiguous w2 [C', K] and float32 scale [G, K]", describe("w2", w2),
           describe("scale", scale));
  Tensor out = empty(w2, {scale.size(0), w2.size(0), w2.size(1)}, w2.scalar_type());
  const CudaScope scope(w2);
  const MlpScaleWeight p{w2.const_data_ptr(),
                         static_cast<const float*>(scale.const_data_ptr()),
                         out.mutable_data_ptr(),
                         scale.size(0),
                         w2.size(0),
                         w2.size(1),
                         *dtype_of(w2)};
  check_cuda(launch_mlp_scale_weight(p, scope.stream()));
  return out;
}

// residual + row_scale (y + bias), in residual's dtype if there is one
Tensor mlp_grn_finish(const Tensor& y, const Tensor& bias, const std::optional<Tensor>& row_scale,
                      const std::optional<Tensor>& residual) {
  const char* op = "mlp_grn_finish";
  const RowGroups rows = groups_of(op, y, y.size(0) > 0 ? y.size(0) : 1, y.size(0) > 0 ? 1 : 0, {}, {});
  MlpFinish p{};
  p.rows = rows.rows;
  p.columns = y.size(1);
  p.runs = 1;
  p.dtype = p.out_dtype = *dtype_of(y);
  p.bias_dtype = vector_dtype(op, "bias", y, p.columns, bias);
  if (row_scale.has_value()) {
    p.runs = row_scale->size(0);
    if (row_scale->dim() != 1 || row_scale->scalar_type() != ScalarType::Float ||
        !(row_scale->device() == y.device()) || !row_scale->is_contiguous() ||
        (p.rows > 0 && (p.runs == 0 || p.rows % p.runs != 0)))
      refuse(op, "row_scale must be contiguous float32 [R] on y's device, R dividing T", describe("y", y),
             describe("row_scale", row_scale));
    p.row_scale = static_cast<const float*>(row_scale->const_data_ptr());
  }
  if (residual.has_value()) {
    if (residual->dim() != 2 || residual->size(0) != p.rows || residual->size(1) != p.columns ||
        !residual->is_contiguous() || !(residual->device() == y.device()) ||
        (residual->scalar_type() != y.scalar_type() && residual->scalar_type() != ScalarType::Float))
      refuse(op, "residual must be contiguous, of y's shape, on its device, in its dtype or float32", describe("y", y),
             describe("residual", residual));
    p.out_dtype = *dtype_of(*residual);
    p.residual = residual->const_data_ptr();
  }
  Tensor out = residual.has_value() ? new_contiguous(*residual) : new_contiguous(y);
  p.y = y.const_data_ptr();
  p.bias = bias.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.aligned = rows_of_vectors(y, out) && (!residual.has_value() || rows_of_vectors(*residual));
  const CudaScope scope(y);
  check_cuda(launch_mlp_finish(p, scope.stream()));
  return out;
}

// dh, g [T, K]; db1, dgamma, dbeta float32 [K]
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_grn_bwd(const Tensor& dg, const Tensor& h, const Tensor& b1,
                                                               const Tensor& gamma, const Tensor& beta,
                                                               const Tensor& norm, double eps, int64_t rows_per_group,
                                                               int64_t count, const std::optional<Tensor>& row_group,
                                                               const std::optional<Tensor>& offsets) {
  const char* op = "mlp_grn_bwd";
  const RowGroups groups = groups_of(op, h, rows_per_group, count, row_group, offsets);
  const int64_t k = h.size(1);
  check_like(op, "dg", h, dg);
  const DType b1_dtype = vector_dtype(op, "b1", h, k, b1), beta_dtype = vector_dtype(op, "beta", h, k, beta);
  Tensor dh = new_contiguous(h), g = new_contiguous(h), db1 = floats(h, {k});
  const CudaScope scope(h);
  GroupShape shape{groups, k, *dtype_of(h), rows_of_vectors(h, dg, dh, g)};
  GrnGradients grad = grn_gradients(op, h, gamma, norm, eps, &shape);
  const MlpBackward p{
      dg.const_data_ptr(),  h.const_data_ptr(), b1.const_data_ptr(), beta.const_data_ptr(), dh.mutable_data_ptr(),
      g.mutable_data_ptr(), b1_dtype,           beta_dtype};
  check_cuda(launch_mlp_backward(shape, p, grad.params, scope.stream()));
  SumJobs jobs{};
  add_mlp_sums(shape, grad.params, float_data(db1), DType::kFloat32, float_data(grad.dgamma), DType::kFloat32,
               float_data(grad.dbeta), DType::kFloat32, &jobs);
  check_cuda(launch_sums(jobs, scope.stream()));
  return {std::move(dh), std::move(g), std::move(db1), std::move(grad.dgamma), std::move(grad.dbeta)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("mlp_grn_activate", TORCH_BOX(&cnv2::mlp_grn_activate));
  m.impl("mlp_grn_scale", TORCH_BOX(&cnv2::mlp_grn_scale));
  m.impl("mlp_grn_scale_weight", TORCH_BOX(&cnv2::mlp_grn_scale_weight));
  m.impl("mlp_grn_finish", TORCH_BOX(&cnv2::mlp_grn_finish));
  m.impl("mlp_grn_bwd", TORCH_BOX(&cnv2::mlp_grn_bwd));
}
