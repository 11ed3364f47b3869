// The CUDA implementations of grn's operators.
#include "cuda/grn/grn.h"

#include <tuple>
#include <utility>

#include "cuda/partial_sums/partial_sums.h"
#include "cuda_scope.h"
#include "groups.h"

namespace cnv2 {
namespace {

std::tuple<Tensor, Tensor> grn_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                                   int64_t rows_per_group, int64_t count, const std::optional<Tensor>& row_group,
                                   const std::optional<Tensor>& offsets) {
  const char* op = "grn_fwd";
  const RowGroups groups = groups_of(op, x, rows_per_group, count, row_group, offsets);
  const int64_t c = x.size(1);
  const DType gamma_dtype = vector_dtype(op, "gamma", x, c, gamma), beta_dtype = vector_dtype(op, "beta", x, c, beta);
  Tensor y = new_contiguous(x), norm = floats(x, {count, c}), scale = floats(x, {count, c});
  const CudaScope scope(x);
  const GrnShape shape{groups, c, *dtype_of(x), rows_of_vectors(x, y)};
  int64_t splits = 0;
  check_cuda(grn_splits(shape, &splits));
  Tensor partial = floats(x, {splits, count, c}), squares = floats(x, {count, c});
  check_cuda(launch_grn_squares(shape, x.const_data_ptr(), float_data(partial), scope.stream()));
  check_cuda(launch_sum_partials(float_data(partial), float_data(squares), splits, count * c, scope.stream()));
  check_cuda(launch_grn_scale(count, c, float_data(squares), gamma.const_data_ptr(), gamma_dtype,
                              static_cast<float>(eps), float_data(norm), float_data(scale), scope.stream()));
  check_cuda(launch_grn_apply(shape, x.const_data_ptr(), float_data(scale), beta.const_data_ptr(), beta_dtype,
                              y.mutable_data_ptr(), scope.stream()));
  return {std::move(y), std::move(norm)};
}

std::tuple<Tensor, Tensor, Tensor> grn_bwd(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& norm,
                                           double eps, int64_t rows_per_group, int64_t count,
                                           const std::optional<Tensor>& row_group,
                                           const std::optional<Tensor>& offsets) {
  const char* op = "grn_bwd";
  const RowGroups groups = groups_of(op, x, rows_per_group, count, row_group, offsets);
  const int64_t c = x.size(1);
  const DType gamma_dtype = vector_dtype(op, "gamma", x, c, gamma);
  check_like(op, "dy", x, dy);
  const float* norms = of_groups(op, "norm", x, groups, c, norm);
  Tensor dx = new_contiguous(x), dgamma = floats(x, {c}), dbeta = floats(x, {c});
  const CudaScope scope(x);
  const GrnShape shape{groups, c, *dtype_of(x), rows_of_vectors(x, dy, dx)};
  int64_t splits = 0;
  check_cuda(grn_splits(shape, &splits));
  Tensor partial = floats(x, {2, splits, count, c}), sums = floats(x, {2, count, c});
  Tensor scale = floats(x, {count, c}), factor = floats(x, {count, c}), shares = floats(x, {count, c});
  const int64_t all = count * c;
  check_cuda(launch_grn_products(shape, dy.const_data_ptr(), x.const_data_ptr(), float_data(partial), scope.stream()));
  for (int i = 0; i < 2; ++i)
    check_cuda(launch_sum_partials(float_data(partial) + i * splits * all, float_data(sums) + i * all, splits, all,
                                   scope.stream()));
  check_cuda(launch_grn_grad(count, c, float_data(sums), norms, gamma.const_data_ptr(), gamma_dtype,
                             static_cast<float>(eps), float_data(scale), float_data(factor), float_data(shares),
                             scope.stream()));
  check_cuda(launch_grn_backward(shape, dy.const_data_ptr(), x.const_data_ptr(), float_data(scale), float_data(factor),
                                 dx.mutable_data_ptr(), scope.stream()));
  check_cuda(launch_sum_partials(float_data(shares), float_data(dgamma), count, c, scope.stream()));
  check_cuda(launch_sum_partials(float_data(sums) + all, float_data(dbeta), count, c, scope.stream()));
  return {std::move(dx), std::move(dgamma), std::move(dbeta)};
}

}  // namespace
}  // namespace cnv2

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CNV2_CUDA_KEY, m) {
  m.impl("grn_fwd", TORCH_BOX(&cnv2::grn_fwd));
  m.impl("grn_bwd", TORCH_BOX(&cnv2::grn_bwd));
}
