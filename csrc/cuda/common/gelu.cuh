// The exact GELU, x Phi(x), accurate to the dtype. Half precision takes, for the left tail, Phi(-z) = exp(-z^2 / 2) t
// q(t), t = 1 / (1 + p z): a rational-exponential form as in Hastings (1955; Abramowitz and Stegun 7.1.26) whose
// coefficients were fitted for the smallest relative error of Phi. float32 takes erff.
#pragma once

#include "cuda/common/platform.cuh"

namespace cnv2 {

struct Gelu {
  float value, slope;
};

// GELU and its derivative Phi(x) + x phi(x), which share the exponential, for storage type T.
template <class T>
__device__ inline Gelu gelu(float x) {
  const float e = exp2f(x * x * -0.7213475204444817f);
  float phi;
  if constexpr (sizeof(T) == 2) {
    const float t = __fdividef(1.0f, fmaf(0.375f, fabsf(x), 1.0f));
    float q = fmaf(-0.09098505f, t, 0.20104291f);
    q = fmaf(q, t, 0.08297434f);
    q = fmaf(q, t, 0.15791998f);
    q = fmaf(q, t, 0.14904114f);
    const float tail = q * t * e;
    phi = x < 0.0f ? tail : 1.0f - tail;
  } else {
    phi = fmaf(0.5f, erff(x * 0.7071067811865476f), 0.5f);
  }
  return {x * phi, fmaf(x * e, 0.3989422804014327f, phi)};
}

// The value that is read back after storing `value` as T.
template <class T>
__device__ inline float rounded(float value) {
  T stored;
  store_float(&stored, value);
  return load_float(&stored);
}

}  // namespace cnv2
