// GELU(x) = x Phi(x), Phi the normal distribution function (the erf form), on vectors of vec.h. No framework header.
//
// Phi(x) - 1/2 = x f(x^2) with f entire: its Chebyshev interpolant of degree 14 on 0 <= x^2 <= 5.3^2, where Phi is 1 to
// half a float32 ulp. Error at most 1.4e-7 |x| of GELU, a third of that of erff composed in float32.
#pragma once

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

// The same for results that are rounded to bfloat16, on vectors with exp2 and reciprocal. Phi(x) = 1 / (1 + 2^z) with z
// an odd polynomial of x, linear beyond |x| = 6.5. Phi's relative error grows with x^2 for negative x, as it would if x
// were rounded to bfloat16, and stays below a quarter of that: 4e-4 for -1 < x < 0, 5e-3 at -4, 2e-2 at -6.5. GRN may
// divide by a norm of such small values, so that there the relative error counts. For x > 0 it is at most 2e-4, the
// slope's absolute error 2e-4.
template <class V>
struct Bfloat16Gelu {
  static CNV2_INLINE V value(V x) { return V::mul(x, phi(x, V::mul(x, x))); }

  static CNV2_INLINE V value_and_slope(V x, V& slope) {
    constexpr float kHalfLog2e = 0.721347520f;
    const V square = V::mul(x, x), whole = phi(x, square);
    const V density = exp2(V::mul(square, V::set(-kHalfLog2e)), kDensity);
    slope = V::fma(x, density, whole);
    return V::mul(x, whole);
  }

 private:
  static constexpr float kOdds[] = {-2.30083084f, -0.108026028f, 0.00130212121f, -1.02959748e-05f};
  static constexpr float kPowers[] = {0.999925196f, 0.695833564f, 0.226066932f, 0.0780247077f};  // 2^r, 0 <= r < 1
  static constexpr float kDensity[] = {0.39891246f, 0.277597427f, 0.0901876539f, 0.031127356f};  // / sqrt(2 pi)

  // NaN stays NaN: min returns its second operand then.
  static CNV2_INLINE V phi(V x, V square) {
    constexpr float kEnd = 6.5f * 6.5f;
    const V z = V::mul(x, cubic(V::min(V::set(kEnd), square), kOdds));
    return V::reciprocal(V::add(V::set(1.f), exp2(z, kPowers)));
  }
  static CNV2_INLINE V exp2(V z, const float (&powers)[4]) { return V::scale(cubic(V::fraction(z), powers), z); }
  static CNV2_INLINE V cubic(V t, const float (&c)[4]) {
    const V high = V::fma(V::set(c[3]), t, V::set(c[2]));
    return V::fma(V::fma(high, t, V::set(c[1])), t, V::set(c[0]));
  }
};

// What is kept as pairs of bfloat16, or as floats.
template <class V, bool kPairs>
using GeluFor = std::conditional_t<kPairs, Bfloat16Gelu<V>, Gelu<V>>;

}  // namespace
}  // namespace cnv2
