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
//
// Half precision needs nothing but the tail, as x Phi(x) = max(x, 0) - z Phi(-z), z = |x|, and the derivative at z is 1
// less that at -z: few instructions, each of which counts where a kernel does little else for an element. -0 in place
// of 0 keeps the sign of -0. z exp(-z^2 / 2) is below 1, so that the saturation, which is free, changes nothing but the
// NaN of infinity times 0: it becomes 0, the limit. NaN goes through t.
template <class T>
__device__ inline Gelu gelu(float x) {
  const float exponent = x * x * -0.7213475204444817f;
  if constexpr (sizeof(T) == 2) {
    const float z = fabsf(x), e = exp2_approx(exponent), t = reciprocal_approx(fmaf(0.375f, z, 1.0f));
    float q = fmaf(-0.09098505f, t, 0.20104291f);
    q = fmaf(q, t, 0.08297434f);
    q = fmaf(q, t, 0.15791998f);
    q = fmaf(q, t, 0.14904114f);
    const float ratio = q * t;  // Phi(-z) / e
    const float ze = __saturatef(z * e);
    const float left = fmaf(ze, -0.3989422804014327f, ratio * e);  // the derivative at -z
    return {fmaf(-ze, ratio, fmaxf(x, -0.0f)), x < 0.0f ? left : 1.0f - left};
  } else {
    const float phi = fmaf(0.5f, erff(x * 0.7071067811865476f), 0.5f);
    return {x * phi, fmaf(x * exp2f(exponent), 0.3989422804014327f, phi)};
  }
}

}  // namespace cnv2
