#include "grn.h"

#include "cuda/common/group_launch.cuh"
#include "cuda/partial_sums/partial_sums.h"
#include "grn_kernel.cuh"

namespace cnv2 {
namespace {

constexpr int64_t kReduction = 2 * kGroupThreads / kWarp * sizeof(float);

cudaError_t launch_squares(const GroupShape& s, const void* x, float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(grn_squares_kernel<T, vector()>, s, t, kGroupShared<vector()>, stream,
                         static_cast<const T*>(x), partial);
  });
}

cudaError_t launch_products(const GroupShape& s, const GrnBackward& p, float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(grn_products_kernel<T, vector()>, s, t, kGroupShared<vector()>, stream,
                         static_cast<const T*>(p.dy), static_cast<const T*>(p.x), partial);
  });
}

cudaError_t launch_input_gradient(const GroupShape& s, const GrnBackward& p, const GrnGrad& grad, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(grn_backward_kernel<T, vector()>, s, t, 0, stream, static_cast<const T*>(p.dy),
                         static_cast<const T*>(p.x), grad.scale, grad.factor, static_cast<T*>(p.dx));
  });
}

}  // namespace

cudaError_t set_splits(GroupShape* s) {
  return with_shape(*s, [&](auto, auto, const GroupTiling& t) {
    s->splits = t.splits;
    return cudaSuccess;
  });
}

cudaError_t launch_grn_scale(const GroupShape& s, const GrnScale& p, cudaStream_t stream) {
  const cudaError_t error = launch_sum_partials(p.partial, p.squares, s.splits, s.groups.count * s.columns, stream);
  if (error != cudaSuccess) return error;
  return launch(grn_scale_kernel, static_cast<unsigned>(s.groups.count), kGroupThreads, kReduction, stream,
                static_cast<int>(s.columns), p.squares, p.gamma, p.gamma_dtype, p.eps, p.norm, p.scale);
}

cudaError_t launch_grn_apply(const GroupShape& s, const GrnApply& p, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(grn_apply_kernel<T, vector()>, s, t, 0, stream, static_cast<const T*>(p.x), p.scale, p.beta,
                         p.beta_dtype, static_cast<T*>(p.y));
  });
}

cudaError_t launch_grn_forward(const GroupShape& s, const GrnScale& scale, const GrnApply& apply, cudaStream_t stream) {
  cudaError_t error = launch_squares(s, apply.x, scale.partial, stream);
  if (error == cudaSuccess) error = launch_grn_scale(s, scale, stream);
  if (error == cudaSuccess) error = launch_grn_apply(s, apply, stream);
  return error;
}

cudaError_t launch_grn_grad(const GroupShape& s, const GrnGrad& p, cudaStream_t stream) {
  const int64_t groups = s.groups.count, all = groups * s.columns;
  cudaError_t error = launch_sum_partials(p.partial, p.sums, s.splits, all, stream);
  if (error == cudaSuccess)
    error = launch_sum_partials(p.partial + s.splits * all, p.sums + all, s.splits, all, stream);
  if (error == cudaSuccess)
    error =
        launch(grn_grad_kernel, static_cast<unsigned>(groups), kGroupThreads, kReduction, stream,
               static_cast<int>(s.columns), p.sums, p.norm, p.gamma, p.gamma_dtype, p.eps, p.scale, p.factor, p.shares);
  if (error == cudaSuccess) error = launch_sum_partials(p.shares, p.dgamma, groups, s.columns, stream);
  if (error == cudaSuccess) error = launch_sum_partials(p.sums + all, p.dbeta, groups, s.columns, stream);
  return error;
}

cudaError_t launch_grn_backward(const GroupShape& s, const GrnGrad& grad, const GrnBackward& p, cudaStream_t stream) {
  cudaError_t error = launch_products(s, p, grad.partial, stream);
  if (error == cudaSuccess) error = launch_grn_grad(s, grad, stream);
  if (error == cudaSuccess) error = launch_input_gradient(s, p, grad, stream);
  return error;
}

}  // namespace cnv2
