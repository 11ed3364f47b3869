// GELU(x) = x Phi(x), Phi the normal distribution function (the erf form), on vectors of vec.h. No framework header.
//
// Phi(x) - 1/2 = x f(x^2) with f entire: its Chebyshev interpolant of degree 14 on 0 <= x^2 <= 5.3^2, where Phi is 1 to
// half a float32 ulp. Error at most 1.4e-7 |x| of GELU, a third of that of erff composed in float32.
#pragma once

#include <cstddef>
#include <type_traits>

#include "cpu/common/unroll.h"

namespace cnv2 {
namespace {

template <class V>
struct Gelu {
  // Phi(x) - 1/2. NaN stays NaN: min and max return their second operand then.
  static CNV2_INLINE V centred_phi(V x) {
    constexpr float kEnd = 5.3f * 5.3f;
    constexpr float kCoefficients[] = {0.133392558f,    -0.0665185526f,   0.0492644049f,  -0.0395874418f,
                                       0.032074891f,    -0.0253118072f,   0.0189583339f,  -0.0131337009f,
                                       0.00872179214f,  -0.00594495516f,  0.00331082987f, -0.00101232866f,
                                       0.000589668576f, -0.000792539911f, 0.000328462425f};
    constexpr int kDegree = 14;
    const V t = V::min(V::set(kEnd), V::mul(x, x));
    const V s = V::fma(t, V::set(2.f / kEnd), V::set(-1.f));
    V f = V::set(kCoefficients[kDegree]);
    unroll<0, kDegree>([&](auto i) CNV2_LAMBDA { f = V::fma(f, s, V::set(kCoefficients[kDegree - 1 - i.value])); });
    return V::max(V::set(-0.5f), V::min(V::set(0.5f), V::mul(x, f)));
  }

  static CNV2_INLINE V value(V x) {
    const V phi = centred_phi(x);
    return V::fma(x, phi, V::mul(x, V::set(0.5f)));
  }

  // GELU(x), and in `slope` its derivative Phi(x) + x phi(x), phi the density.
  static CNV2_INLINE V value_and_slope(V x, V& slope) {
    const V phi = V::add(centred_phi(x), V::set(0.5f));
    slope = V::fma(x, density(x), phi);
    return V::mul(x, phi);
  }

  // exp(-x^2 / 2) / sqrt(2 pi) as 2^n 2^r, |r| <= 1/2.
  static CNV2_INLINE V density(V x) {
    constexpr float kLog2e = 1.44269504f, kInverseRoot = 0.398942280f;
    constexpr float kPowers[] = {1.f,           0.693147182f,   0.240226507f, 0.0555032715f, 0.00961805694f,
                                 0.0013400428f, 0.000154614449f};
    const V z = V::max(V::set(-125.f), V::mul(V::mul(x, x), V::set(-0.5f * kLog2e)));
    const V n = V::round(z);
    const V r = V::sub(z, n);
    V e = V::set(kPowers[6]);
    unroll<0, 6>([&](auto i) CNV2_LAMBDA { e = V::fma(e, r, V::set(kPowers[5 - i.value])); });
    return V::mul(V::mul(e, V::pow2(n)), V::set(kInverseRoot));
  }
};

// The same for results that are rounded to bfloat16: GELU to 2e-5 |x|, its slope to 3e-4, where bfloat16 rounds by up
// to 4e-3 of a number. Both less their value at zero are x f(x^2), here with f of degree 8 and 9, of least largest
// error on |x| <= 4.4 among those that are right at 4.4, beyond which they do not change.
template <class V>
struct Bfloat16Gelu {
  static CNV2_INLINE V value(V x) {
    const V c = clamped(x);
    return V::mul(x, odd(c, V::mul(c, c), kValue));
  }
  static CNV2_INLINE V value_and_slope(V x, V& slope) {
    const V c = clamped(x), t = V::mul(c, c);
    slope = odd(c, t, kSlope);
    return V::mul(x, odd(c, t, kValue));
  }

 private:
  static constexpr float kEnd = 4.4f;
  static constexpr float kValue[] = {0.398881882f,    -0.0662837103f,   0.00976430811f,
                                     -0.00108912832f, 8.95867925e-05f,  -5.20174672e-06f,
                                     1.98940867e-07f, -4.44918191e-09f, 4.37645267e-11f};
  static constexpr float kSlope[] = {0.798247635f,    -0.26666519f,     0.0600988641f,   -0.00940844789f,
                                     0.00106990826f,  -8.79500367e-05f, 5.03661568e-06f, -1.88447132e-07f,
                                     4.10626244e-09f, -3.93010034e-11f};

  // NaN stays NaN: min and max return their second operand then.
  static CNV2_INLINE V clamped(V x) { return V::max(V::set(-kEnd), V::min(V::set(kEnd), x)); }

  // 1/2 + x f(t).
  template <size_t kCount>
  static CNV2_INLINE V odd(V x, V t, const float (&coefficients)[kCount]) {
    constexpr int kDegree = static_cast<int>(kCount) - 1;
    V f = V::set(coefficients[kDegree]);
    unroll<0, kDegree>([&](auto i) CNV2_LAMBDA { f = V::fma(f, t, V::set(coefficients[kDegree - 1 - i.value])); });
    return V::fma(x, f, V::set(0.5f));
  }
};

// What is kept as pairs of bfloat16, or as floats.
template <class V, bool kPairs>
using GeluFor = std::conditional_t<kPairs, Bfloat16Gelu<V>, Gelu<V>>;

}  // namespace
}  // namespace cnv2
