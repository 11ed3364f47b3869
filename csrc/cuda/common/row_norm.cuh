// LayerNorm of a row by some lanes of a warp.
#pragma once

#include "cuda/common/vector.cuh"

namespace cnv2 {

// The sum over each run of `lanes` lanes, a power of 2; all lanes of the warp must call it.
__device__ inline float lanes_sum(float value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Normalises `row` into `y`, and copies it to `z` if that is not null. `live` says whether these lanes have a row at
// all. A lane takes vectors of kVector elements. With kHeld > 0 it keeps them in registers, at most kHeld; otherwise it
// reads them three times. The statistics take two passes: the mean, then the squared differences from it.
template <int kVector, int kHeld, class T>
__device__ inline void normalise_row(const T* __restrict__ row,         // [c]
                                     const float* __restrict__ weight,  // [c], in shared memory
                                     const float* __restrict__ bias,    // [c], in shared memory
                                     T* __restrict__ y,                 // [c]
                                     T* __restrict__ z,                 // [c], or null
                                     int c, float eps, int lane, int lanes, bool live) {
  const int vectors = live ? c / kVector : 0;
  float held[kHeld > 0 ? kHeld : 1][kVector];
  const auto each = [&](auto&& work) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        if (lane + k * lanes < vectors) work(lane + k * lanes, held[k]);
      }
    } else {
      for (int at = lane; at < vectors; at += lanes) {
        load_vector<kVector>(row + at * kVector, held[0]);
        work(at, held[0]);
      }
    }
  };
  float sum = 0.0f;
  each([&](int at, float (&v)[kVector]) {
    if constexpr (kHeld > 0) load_vector<kVector>(row + at * kVector, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += v[i];
  });
  const float mean = lanes_sum(sum, lanes) / static_cast<float>(c);
  float squares = 0.0f;
  each([&](int, float (&v)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares = fmaf(v[i] - mean, v[i] - mean, squares);
  });
  const float rstd = 1.0f / sqrtf(lanes_sum(squares, lanes) / static_cast<float>(c) + eps);
  each([&](int at, float (&v)[kVector]) {
    if (z != nullptr) store_vector<kVector>(z + at * kVector, v);
    float out[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      out[i] = fmaf((v[i] - mean) * rstd, weight[at * kVector + i], bias[at * kVector + i]);
    store_vector<kVector>(y + at * kVector, out);
  });
}

}  // namespace cnv2
