#include "mlp_grn.h"

#include "cuda/common/group_launch.cuh"
#include "cuda/partial_sums/partial_sums.h"
#include "mlp_grn_kernel.cuh"

namespace cnv2 {
namespace {

cudaError_t launch_products(const GroupShape& s, const MlpBackward& p, float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(mlp_products_kernel<T, vector()>, s, t, kGroupShared<vector()>, stream,
                         static_cast<const T*>(p.dg), static_cast<const T*>(p.h), p.b1, p.b1_dtype, partial);
  });
}

cudaError_t launch_input_gradient(const GroupShape& s, const MlpBackward& p, const GrnGrad& grad, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    return launch_groups(mlp_backward_kernel<decltype(type), vector()>, s, t, kGroupShared<vector()>, stream, p,
                         grad.scale, grad.factor, grad.partial);
  });
}

}  // namespace

cudaError_t launch_mlp_activate(const GroupShape& s, const MlpActivate& p, const GrnScale& scale, cudaStream_t stream) {
  const cudaError_t error = with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(mlp_activate_kernel<T, vector()>, s, t, kGroupShared<vector()>, stream,
                         static_cast<const T*>(p.h), p.b1, p.b1_dtype, static_cast<T*>(p.a), scale.partial);
  });
  return error == cudaSuccess ? launch_grn_scale(s, scale, stream) : error;
}

cudaError_t launch_mlp_scale_weight(const MlpScaleWeight& p, cudaStream_t stream) {
  const bool aligned = is_aligned16(p.k, p.dtype == DType::kFloat32 ? 4 : 2, p.w, p.out);
  const GroupShape s{{p.groups * p.c_out, p.groups, p.c_out, nullptr}, p.k, p.dtype, aligned};
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(mlp_scale_weight_kernel<T, vector()>, s, t, 0, stream, static_cast<const T*>(p.w), p.scale,
                         static_cast<T*>(p.out));
  });
}

cudaError_t launch_mlp_finish(const MlpFinish& p, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess || p.rows == 0) return error;
  const GroupShape s{{p.rows, p.runs, p.rows / p.runs, nullptr}, p.columns, p.dtype, p.aligned};
  const auto start = [&](auto type, auto out, auto vector) {
    using T = decltype(type);
    using O = decltype(out);
    return launch_groups(mlp_finish_kernel<T, O, vector()>, s, group_tiling(s.groups, s.columns, vector, device), 0,
                         stream, static_cast<const T*>(p.y), p.bias, p.bias_dtype, p.row_scale,
                         static_cast<const O*>(p.residual), static_cast<O*>(p.out));
  };
  return with_dtype(p.dtype, [&](auto type) {
    const auto as = [&](auto out) {  // vectors of 16 bytes of the wider type
      if (p.aligned) return start(type, out, std::integral_constant<int, kWide<decltype(out)>>{});
      return start(type, out, std::integral_constant<int, 1>{});
    };
    if (p.out_dtype == p.dtype) return as(type);
    return as(float{});
  });
}

cudaError_t launch_mlp_backward(const GroupShape& s, const MlpBackward& p, const GrnGrad& grad, cudaStream_t stream) {
  cudaError_t error = launch_products(s, p, grad.partial, stream);
  if (error == cudaSuccess) error = launch_grn_grad(s, grad, stream);
  if (error == cudaSuccess) error = launch_input_gradient(s, p, grad, stream);
  if (error == cudaSuccess)
    error = launch_sum_partials(grad.partial, p.db1, s.splits * s.groups.count, s.columns, stream);
  return error;
}

}  // namespace cnv2
