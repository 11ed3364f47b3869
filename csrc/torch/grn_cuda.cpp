// The CUDA implementations of grn's operators.
#include "grn_cuda.h"

#include <tuple>
#include <utility>

namespace cnv2 {
namespace {

std::tuple<Tensor, Tensor> grn_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                                   int64_t rows_per_group, int64_t count, const std::optional<Tensor>& row_group,
                                   const std::optional<Tensor>& offsets) {
  const char* op = "grn_fwd";
  const RowGroups groups = groups_of(op, x, rows_per_group, count, row_group, offsets);
  const DType beta_dtype = vector_dtype(op, "beta", x, x.size(1), beta);
  Tensor y = new_contiguous(x);
  const CudaScope scope(x);
  GroupShape shape{groups, x.size(1), *dtype_of(x), rows_of_vectors(x, y)};
  GrnNorms norms = grn_norms(op, x, gamma, eps, &shape);
  const GrnApply apply{x.const_data_ptr(), norms.params.scale, beta.const_data_ptr(), y.mutable_data_ptr(), beta_dtype};
  check_cuda(launch_grn_forward(shape, norms.params, apply, scope.stream()));
  return {std::move(y), std::move(norms.norm)};
}

std::tuple<Tensor, Tensor, Tensor> grn_bwd(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& norm,
                                           double eps, int64_t rows_per_group, int64_t count,
                                           const std::optional<Tensor>& row_group,
                                           const std::optional<Tensor>& offsets) {
  const char* op = "grn_bwd";
  const RowGroups groups = groups_of(op, x, rows_per_group, count, row_group, offsets);
  check_like(op, "dy", x, dy);
  Tensor dx = new_contiguous(x);
  const CudaScope scope(x);
  GroupShape shape{groups, x.size(1), *dtype_of(x), rows_of_vectors(x, dy, dx)};
  GrnGradients grad = grn_gradients(op, x, gamma, norm, eps, &shape);
  const GrnBackward p{dy.const_data_ptr(), x.const_data_ptr(), dx.mutable_data_ptr()};
  check_cuda(launch_grn_backward(shape, grad.params, p, scope.stream()));
  SumJobs jobs{};
  add_grn_sums(shape, grad.params, float_data(grad.dgamma), DType::kFloat32, float_data(grad.dbeta), DType::kFloat32,
               &jobs);
  check_cuda(launch_sums(jobs, scope.stream()));
  return {std::move(dx), std::move(grad.dgamma), std::move(grad.dbeta)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("grn_fwd", TORCH_BOX(&cnv2::grn_fwd));
  m.impl("grn_bwd", TORCH_BOX(&cnv2::grn_bwd));
}
