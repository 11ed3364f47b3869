#include "grn.h"

#include "cuda/common/group_launch.cuh"
#include "grn_kernel.cuh"

namespace cnv2 {
namespace {

// How many threads share a group's columns: one for each and, where blocks split the group's rows, others for the
// later splits.
unsigned threads_of_group(const GroupShape& s) {
  const int64_t rounded = (s.columns + kWarp - 1) / kWarp * kWarp,
                lanes = rounded < kGrnThreads ? rounded : kGrnThreads;
  const int64_t slices = kGrnThreads / lanes < s.splits ? kGrnThreads / lanes : s.splits;
  return static_cast<unsigned>(lanes * slices);
}

constexpr int64_t kReduction = kGrnThreads * sizeof(float);

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

cudaError_t launch_grn_scale(const GroupShape& s, const GrnScale& p, const GrnShift& shift, cudaStream_t stream) {
  const unsigned threads = threads_of_group(s), warps = threads / kWarp;
  const int64_t rows = shift.matrix == nullptr ? 0 : shift.rows, blocks = s.groups.count + (rows + warps - 1) / warps;
  if (blocks > 0x7fffffff) return cudaErrorInvalidValue;
  return launch(grn_scale_kernel, static_cast<unsigned>(blocks), threads, kReduction, stream,
                static_cast<int>(s.groups.count), static_cast<int>(s.splits), static_cast<int>(s.columns), p, shift);
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
  if (error == cudaSuccess) error = launch_grn_scale(s, scale, {}, stream);
  if (error == cudaSuccess) error = launch_grn_apply(s, apply, stream);
  return error;
}

cudaError_t launch_grn_grad(const GroupShape& s, const GrnGrad& p, cudaStream_t stream) {
  return launch(grn_grad_kernel, static_cast<unsigned>(s.groups.count), threads_of_group(s), kReduction, stream,
                static_cast<int>(s.groups.count), static_cast<int>(s.splits), static_cast<int>(s.columns), p);
}

void add_grn_sums(const GroupShape& s, const GrnGrad& grad, void* dgamma, DType dgamma_dtype, void* dbeta,
                  DType dbeta_dtype, SumJobs* jobs) {
  const int64_t parts = s.splits * s.groups.count, c = s.columns;
  jobs->add(grad.shares, dgamma, dgamma_dtype, s.groups.count, c, c);
  jobs->add(grad.partial + parts * c, dbeta, dbeta_dtype, parts, c, c);
}

cudaError_t launch_grn_backward(const GroupShape& s, const GrnGrad& grad, const GrnBackward& p, cudaStream_t stream) {
  cudaError_t error = launch_products(s, p, grad.partial, stream);
  if (error == cudaSuccess) error = launch_grn_grad(s, grad, stream);
  if (error == cudaSuccess) error = launch_input_gradient(s, p, grad, stream);
  return error;
}

}  // namespace cnv2
