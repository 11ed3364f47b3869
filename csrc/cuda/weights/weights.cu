#include "weights.h"

#include "cuda/common/dtype.cuh"
#include "patch_weight_kernel.cuh"
#include "weights_kernel.cuh"

namespace cnv2 {

cudaError_t launch_block_casts(const BlockCasts& p, cudaStream_t stream) {
  const auto blocks = [](int64_t elements, int64_t each) { return (elements + each - 1) / each; };
  const int64_t taps = p.taps.to == nullptr ? 0 : blocks(kDwconvTaps * p.taps.c, kCastThreads);
  int64_t each[2], all = taps;
  for (int i = 0; i < 2; ++i) {
    each[i] = p.matrix[i].to == nullptr ? 0 : blocks(p.matrix[i].count, kCastThreads * kCastVector);
    all += each[i];
  }
  if (all > 0x7fffffff) return cudaErrorInvalidValue;
  const CastGrid grid{static_cast<int>(taps), {static_cast<int>(each[0]), static_cast<int>(each[1])}};
  const auto kernel = p.dtype == DType::kBFloat16 ? block_casts_kernel<BFloat16> : block_casts_kernel<Half>;
  return launch(kernel, static_cast<unsigned>(all), kCastThreads, 0, stream, p, grid);
}

cudaError_t launch_patch_weight(const PatchWeight& p, cudaStream_t stream) {
  const auto blocks = [](int64_t elements) { return (elements + kCastThreads - 1) / kCastThreads; };
  const int64_t weight = p.to == nullptr ? 0 : blocks(p.c_out * p.c_in);
  const int64_t all = weight + (p.vector_to == nullptr ? 0 : blocks(p.count));
  if (p.c_out * p.c_in > 0x7fffffff || all > 0x7fffffff) return cudaErrorInvalidValue;
  const auto start = [&](auto from, auto to) {
    using From = decltype(from);
    using To = decltype(to);
    // A thread's run of taps is one word where the parameter's form has four of them.
    const bool words = p.k == 2 && !p.by_taps && is_aligned16(4, 4, p.back ? p.to : p.from);
    const auto kernel = words ? patch_weight_kernel<From, To, 4> : patch_weight_kernel<From, To, 1>;
    return launch(kernel, static_cast<unsigned>(all), kCastThreads, 0, stream, p, static_cast<int>(weight));
  };
  return with_dtype(p.to_dtype, [&](auto to) {
    if (p.from_dtype == p.to_dtype) return start(to, to);
    return p.from_dtype == DType::kFloat32 ? start(float{}, to) : cudaErrorInvalidValue;
  });
}

}  // namespace cnv2
