#include "partial_sums.h"

#include "partial_sums_kernel.cuh"

namespace cnv2 {

cudaError_t launch_sum_partials(const float* __restrict__ partial, float* __restrict__ out, int64_t parts,
                                int64_t columns, cudaStream_t stream) {
  // A warp that has eight parts or more keeps eight loads under way.
  const int64_t wanted = parts / 8 < kSumPartialsMaxWarps ? parts / 8 : kSumPartialsMaxWarps;
  const unsigned threads = static_cast<unsigned>(wanted > 1 ? wanted : 1) * kWarp;
  const int64_t blocks = (columns + kWarp - 1) / kWarp;
  if (blocks > 0x7fffffff) return cudaErrorInvalidValue;
  return launch(sum_partials_kernel, dim3(static_cast<unsigned>(blocks)), threads, threads * int64_t{sizeof(float)},
                stream, partial, out, parts, columns);
}

}  // namespace cnv2
