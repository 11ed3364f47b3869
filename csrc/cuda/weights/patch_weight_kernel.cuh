// A thread takes one pair of input and output channel, and its taps: of [c_out, c_in, k, k] they lie together, and
// neighbours read or write whole runs of the other form.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/vector.cuh"
#include "weights.h"
#include "weights_kernel.cuh"

namespace cnv2 {

// The blocks of the weight are followed by those of the vector. kVector: taps of a load or store, which divides k * k.
template <class From, class To, int kVector>
__global__ void __launch_bounds__(kCastThreads) patch_weight_kernel(const PatchWeight p, const int weight_blocks) {
  const int block = static_cast<int>(blockIdx.x);
  if (block >= weight_blocks) {
    const int64_t i = int64_t{block - weight_blocks} * kCastThreads + threadIdx.x;
    if (i >= p.count) return;
    if (p.vector_dtype == DType::kBFloat16)
      store_float(static_cast<BFloat16*>(p.vector_to) + i, p.vector[i]);
    else
      store_float(static_cast<Half*>(p.vector_to) + i, p.vector[i]);
    return;
  }
  const From* __restrict__ const from = static_cast<const From*>(p.from);
  To* __restrict__ const to = static_cast<To*>(p.to);
  const int64_t pairs = p.c_out * p.c_in, i = int64_t{block} * kCastThreads + threadIdx.x;
  if (i >= pairs) return;
  const int k = p.k, taps = k * k;
  const auto number = static_cast<unsigned>(i), c_in = static_cast<unsigned>(p.c_in);
  const unsigned filter = number / c_in, channel = number - filter * c_in;
  // The product's form, at tap = ky * k + kx.
  const int64_t first = p.by_taps ? i : int64_t{filter} * taps * c_in + channel;
  const int64_t step = p.by_taps ? pairs : p.c_in;
  for (int tap = 0; tap < taps; tap += kVector) {
    const int64_t own = p.by_taps ? int64_t{tap % k * k + tap / k} * pairs + i : i * taps + tap;
    float v[kVector];
    if (p.back) {
#pragma unroll
      for (int t = 0; t < kVector; ++t) v[t] = load_float(from + first + (tap + t) * step);
      store_vector<kVector>(to + own, v);
    } else {
      load_vector<kVector>(from + own, v);
#pragma unroll
      for (int t = 0; t < kVector; ++t) store_float(to + first + (tap + t) * step, v[t]);
    }
  }
}

}  // namespace cnv2
