// Starts a kernel that walks groups: run(T{}, vector, tiling, grid) with 16-byte vectors where they fit, elements else.
#pragma once

#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/common/groups.cuh"

namespace cnv2 {

template <class F>
cudaError_t with_groups(const RowGroups& groups, int64_t columns, DType dtype, bool aligned, F&& run) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  if (groups.count * group_tiling(groups, columns, 1, device).splits > 0x7fffffff) return cudaErrorInvalidValue;
  return with_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const auto start = [&](auto vector) {
      const GroupTiling t = group_tiling(groups, columns, vector, device);
      return run(type, vector, t, group_grid(groups, t));
    };
    if (aligned) return start(std::integral_constant<int, kWide<T>>{});
    return start(std::integral_constant<int, 1>{});
  });
}

}  // namespace cnv2
