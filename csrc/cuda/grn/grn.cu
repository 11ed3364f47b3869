#include "grn.h"

#include "cuda/common/group_launch.cuh"
#include "grn_kernel.cuh"

namespace cnv2 {
namespace {

template <class F>
cudaError_t with_shape(const GrnShape& s, F&& run) {
  return with_groups(s.groups, s.columns, s.dtype, s.aligned, run);
}

constexpr int64_t kReduction = 2 * kGroupThreads / kWarp * sizeof(float);

}  // namespace

cudaError_t grn_splits(const GrnShape& s, int64_t* splits) {
  return with_shape(s, [&](auto, auto, const GroupTiling& t, dim3) {
    *splits = t.splits;
    return cudaSuccess;
  });
}

cudaError_t launch_grn_squares(const GrnShape& s, const void* x, float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(grn_squares_kernel<T, vector()>, grid, kGroupThreads, kGroupShared<vector()>, stream, s.groups, t,
                  static_cast<int>(s.columns), static_cast<const T*>(x), partial);
  });
}

cudaError_t launch_grn_products(const GrnShape& s, const void* dy, const void* x, float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(grn_products_kernel<T, vector()>, grid, kGroupThreads, kGroupShared<vector()>, stream, s.groups, t,
                  static_cast<int>(s.columns), static_cast<const T*>(dy), static_cast<const T*>(x), partial);
  });
}

cudaError_t launch_grn_apply(const GrnShape& s, const void* x, const float* scale, const void* beta, DType param_dtype,
                             void* out, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(grn_apply_kernel<T, vector()>, grid, kGroupThreads, 0, stream, s.groups, t,
                  static_cast<int>(s.columns), static_cast<const T*>(x), scale, beta, param_dtype,
                  static_cast<T*>(out));
  });
}

cudaError_t launch_grn_backward(const GrnShape& s, const void* dy, const void* x, const float* scale,
                                const float* factor, void* dx, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(grn_backward_kernel<T, vector()>, grid, kGroupThreads, 0, stream, s.groups, t,
                  static_cast<int>(s.columns), static_cast<const T*>(dy), static_cast<const T*>(x), scale, factor,
                  static_cast<T*>(dx));
  });
}

cudaError_t launch_grn_scale(int64_t groups, int64_t columns, const float* squares, const void* gamma,
                             DType param_dtype, float eps, float* norm, float* scale, cudaStream_t stream) {
  return launch(grn_scale_kernel, static_cast<unsigned>(groups), kGroupThreads, kReduction, stream,
                static_cast<int>(columns), squares, gamma, param_dtype, eps, norm, scale);
}

cudaError_t launch_grn_grad(int64_t groups, int64_t columns, const float* products, const float* norm,
                            const void* gamma, DType param_dtype, float eps, float* scale, float* factor, float* dgamma,
                            cudaStream_t stream) {
  return launch(grn_grad_kernel, static_cast<unsigned>(groups), kGroupThreads, kReduction, stream,
                static_cast<int>(columns), products, norm, gamma, param_dtype, eps, scale, factor, dgamma);
}

}  // namespace cnv2
