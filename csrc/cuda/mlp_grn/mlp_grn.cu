#include "mlp_grn.h"

#include "cuda/common/group_launch.cuh"
#include "mlp_grn_kernel.cuh"

namespace cnv2 {
namespace {

template <class F>
cudaError_t with_shape(const GrnShape& s, F&& run) {
  return with_groups(s.groups, s.columns, s.dtype, s.aligned, run);
}

}  // namespace

cudaError_t launch_mlp_activate(const GrnShape& s, const void* h, const void* b1, DType b1_dtype, void* a,
                                float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(mlp_activate_kernel<T, vector()>, grid, kGroupThreads, kGroupShared<vector()>, stream, s.groups, t,
                  static_cast<int>(s.columns), static_cast<const T*>(h), b1, b1_dtype, static_cast<T*>(a), partial);
  });
}

cudaError_t launch_mlp_products(const GrnShape& s, const void* dg, const void* h, const void* b1, DType b1_dtype,
                                float* partial, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(mlp_products_kernel<T, vector()>, grid, kGroupThreads, kGroupShared<vector()>, stream, s.groups, t,
                  static_cast<int>(s.columns), static_cast<const T*>(dg), static_cast<const T*>(h), b1, b1_dtype,
                  partial);
  });
}

cudaError_t launch_mlp_backward(const GrnShape& s, const MlpBackward& p, cudaStream_t stream) {
  return with_shape(s, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    return launch(mlp_backward_kernel<decltype(type), vector()>, grid, kGroupThreads, kGroupShared<vector()>, stream,
                  s.groups, t, static_cast<int>(s.columns), p);
  });
}

cudaError_t launch_mlp_scale_weight(int64_t groups, int64_t c_out, int64_t columns, DType dtype, const void* w,
                                    const float* scale, void* out, cudaStream_t stream) {
  const RowGroups rows{groups * c_out, groups, c_out, nullptr};
  const bool aligned = is_aligned16(columns, dtype == DType::kFloat32 ? 4 : 2, w, out);
  return with_groups(rows, columns, dtype, aligned, [&](auto type, auto vector, const GroupTiling& t, dim3 grid) {
    using T = decltype(type);
    return launch(mlp_scale_weight_kernel<T, vector()>, grid, kGroupThreads, 0, stream, rows, t,
                  static_cast<int>(columns), static_cast<const T*>(w), scale, static_cast<T*>(out));
  });
}

cudaError_t launch_mlp_finish(const MlpFinish& p, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess || p.rows == 0) return error;
  const RowGroups runs{p.rows, p.runs, p.rows / p.runs, nullptr};
  const auto start = [&](auto type, auto out, auto vector) {
    const GroupTiling t = group_tiling(runs, p.columns, vector, device);
    return launch(mlp_finish_kernel<decltype(type), decltype(out), vector()>, group_grid(runs, t), kGroupThreads, 0,
                  stream, runs, t, static_cast<int>(p.columns), p);
  };
  return with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const auto as = [&](auto out) {  // vectors of 16 bytes of the wider type
      if (p.aligned) return start(type, out, std::integral_constant<int, kWide<decltype(out)>>{});
      return start(type, out, std::integral_constant<int, 1>{});
    };
    if (p.out_dtype == p.dtype) return as(T{});
    return as(float{});
  });
}

}  // namespace cnv2
