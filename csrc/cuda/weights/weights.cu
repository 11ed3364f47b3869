#include "weights.h"

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

}  // namespace cnv2
