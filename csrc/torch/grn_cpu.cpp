// The CPU implementations of grn's operators.
#include "cpu/grn/grn.h"

#include <tuple>
#include <utility>

#include "cpu/common/isa.h"
#include "groups.h"
#include "parallel_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

std::tuple<Tensor, Tensor> grn_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                                   int64_t rows_per_group, int64_t count, const std::optional<Tensor>& row_group,
                                   const std::optional<Tensor>& offsets) {
  const char* op = "grn_fwd";
  const RowGroups groups = groups_of(op, x, rows_per_group, count, row_group, offsets);
  vector_dtype(op, "gamma", x, x.size(1), gamma);
  vector_dtype(op, "beta", x, x.size(1), beta);
  Tensor y = new_contiguous(x), norm = floats(x, {count, x.size(1)});
  const GrnForward p{groups,          x.size(1),      static_cast<float>(eps), array_of(x),
                     array_of(gamma), array_of(beta), y.mutable_data_ptr(),    float_data(norm)};
  grn_cpu(current_cpu_isa()).forward(p, torch_parallel());
  return {std::move(y), std::move(norm)};
}

std::tuple<Tensor, Tensor, Tensor> grn_bwd(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& norm,
                                           double eps, int64_t rows_per_group, int64_t count,
                                           const std::optional<Tensor>& row_group,
                                           const std::optional<Tensor>& offsets) {
  const char* op = "grn_bwd";
  const RowGroups groups = groups_of(op, x, rows_per_group, count, row_group, offsets);
  vector_dtype(op, "gamma", x, x.size(1), gamma);
  check_like(op, "dy", x, dy);
  Tensor dx = new_contiguous(x), dgamma = floats(x, {x.size(1)}), dbeta = floats(x, {x.size(1)});
  const GrnBackward p{groups,
                      x.size(1),
                      static_cast<float>(eps),
                      array_of(dy),
                      array_of(x),
                      array_of(gamma),
                      of_groups(op, "norm", x, groups, x.size(1), norm),
                      dx.mutable_data_ptr(),
                      float_data(dgamma),
                      float_data(dbeta)};
  grn_cpu(current_cpu_isa()).backward(p, torch_parallel_in(true));
  return {std::move(dx), std::move(dgamma), std::move(dbeta)};
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::grn_fwd>("grn_fwd");
  m.add<&cnv2::grn_bwd>("grn_bwd");
}
