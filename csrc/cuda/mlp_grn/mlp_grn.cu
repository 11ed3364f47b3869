#include "mlp_grn.h"

#include "cuda/common/group_launch.cuh"
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

// Calls run(T{}, O{}, vector, tiling) with the types of dy and dout, and vectors of 16 bytes of the wider one.
template <class F>
cudaError_t with_output_gradient(const GroupShape& s, DType out_dtype, F&& run) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  return with_dtype(s.dtype, [&](auto type) {
    const auto start = [&](auto from, auto vector) {
      return run(type, from, vector, group_tiling(s.groups, s.columns, vector, device));
    };
    const auto as = [&](auto from) {
      if (s.aligned) return start(from, std::integral_constant<int, kWide<decltype(from)>>{});
      return start(from, std::integral_constant<int, 1>{});
    };
    if (out_dtype == s.dtype) return as(type);
    return as(float{});
  });
}

}  // namespace

cudaError_t launch_mlp_activate(const GroupShape& s, const MlpActivate& p, const GrnScale& scale, const GrnShift& shift,
                                cudaStream_t stream) {
  const cudaError_t error = with_shape(s, [&](auto type, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    return launch_groups(mlp_activate_kernel<T, vector()>, s, t, kGroupShared<vector()>, stream,
                         static_cast<const T*>(p.h), p.b1, p.b1_dtype, static_cast<T*>(p.a), scale.partial);
  });
  return error == cudaSuccess ? launch_grn_scale(s, scale, shift, stream) : error;
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

cudaError_t set_output_gradient_splits(DType out_dtype, GroupShape* s) {
  return with_output_gradient(*s, out_dtype, [&](auto, auto, auto, const GroupTiling& t) {
    s->splits = t.splits;
    return cudaSuccess;
  });
}

cudaError_t launch_mlp_output_gradient(const GroupShape& s, const MlpOutputGradient& p, cudaStream_t stream) {
  if (s.groups.rows == 0) return cudaSuccess;
  return with_output_gradient(s, p.out_dtype, [&](auto type, auto from, auto vector, const GroupTiling& t) {
    using T = decltype(type);
    using O = decltype(from);
    return launch_groups(mlp_output_gradient_kernel<T, O, vector()>, s, t, kGroupShared<vector()>, stream,
                         static_cast<const O*>(p.dout), p.row_scale, static_cast<T*>(p.dy), p.partial);
  });
}

cudaError_t launch_mlp_backward(const GroupShape& s, const MlpBackward& p, const GrnGrad& grad, cudaStream_t stream) {
  cudaError_t error = launch_products(s, p, grad.partial, stream);
  if (error == cudaSuccess) error = launch_grn_grad(s, grad, stream);
  if (error == cudaSuccess) error = launch_input_gradient(s, p, grad, stream);
  return error;
}

void add_mlp_sums(const GroupShape& s, const GrnGrad& grad, void* db1, DType db1_dtype, void* dgamma,
                  DType dgamma_dtype, void* dbeta, DType dbeta_dtype, SumJobs* jobs) {
  jobs->add(grad.partial, db1, db1_dtype, s.splits * s.groups.count, s.columns, s.columns);
  add_grn_sums(s, grad, dgamma, dgamma_dtype, dbeta, dbeta_dtype, jobs);
}

}  // namespace cnv2
