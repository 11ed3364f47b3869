// Starts kernels that walk groups, with 16-byte vectors where they fit and single elements elsewhere.
#pragma once

#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/common/group_shape.h"
#include "cuda/common/groups.cuh"

namespace cnv2 {

// Calls run(T{}, vector, tiling) with the storage type, the vector's length as an integral constant, and the blocks'
// share of the rows.
template <class F>
cudaError_t with_shape(const GroupShape& s, F&& run) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  if (s.groups.count * group_tiling(s.groups, s.columns, 1, device).splits > 0x7fffffff) return cudaErrorInvalidValue;
  return with_dtype(s.dtype, [&](auto type) {
    const auto start = [&](auto vector) {
      return run(type, vector, group_tiling(s.groups, s.columns, vector, device));
    };
    if (s.aligned) return start(std::integral_constant<int, kWide<decltype(type)>>{});
    return start(std::integral_constant<int, 1>{});
  });
}

// Starts kernel(groups, tiling, columns, args...).
template <class... P, class... A>
cudaError_t launch_groups(void (*kernel)(RowGroups, GroupTiling, int, P...), const GroupShape& s, const GroupTiling& t,
                          int64_t shared_bytes, cudaStream_t stream, const A&... args) {
  return launch(kernel, group_grid(s.groups, t), kGroupThreads, shared_bytes, stream, s.groups, t,
                static_cast<int>(s.columns), args...);
}

}  // namespace cnv2
