// What the backward of mlp_grn does with each hidden activation, for one panel and the rows of one block.
#pragma once

#include <type_traits>

#include "cpu/common/gelu.h"
#include "cpu/gemm/tiles.h"

namespace cnv2 {
namespace {

template <class V, class Op>
struct HiddenGradient {
  using Layout = TileLayout<V, Op>;
  static constexpr int kVector = Layout::kVector, kBlock = Layout::kBlock, kWords = Layout::kWords;
  static constexpr bool kPairs = Op::kNumbers > 1;
  using Activation = GeluFor<V, kPairs>;

  // Where gradient() puts the rows of dh and v: dh in the place of dv. Floats of v replace h. Pairs take half the
  // place: there both rows fit in that of dv, and h's memory, which would have to be written too, is left alone.
  using Rows = std::conditional_t<kPairs, Alternating<Op>, Op>;
  static const float* second(const float* h, const float* dv) { return kPairs ? dv + kWords : h; }

  // The sums over the rows of dv GELU(h) and of dv.
  static void sums(const float* __restrict__ h,   // [rows][kBlock]
                   const float* __restrict__ dv,  // [rows][kBlock]
                   int64_t rows,
                   float* __restrict__ products,  // [kBlock]
                   float* __restrict__ plain) {   // [kBlock]
    V p0 = V::zero(), p1 = V::zero(), sum0 = V::zero(), sum1 = V::zero();
    for (int64_t r = 0; r < rows; ++r, h += kBlock, dv += kBlock) {
      const V d0 = V::load(dv), d1 = V::load(dv + kVector);
      p0 = V::fma(d0, Activation::value(V::load(h)), p0);
      p1 = V::fma(d1, Activation::value(V::load(h + kVector)), p1);
      sum0 = V::add(sum0, d0);
      sum1 = V::add(sum1, d1);
    }
    p0.store(products);
    p1.store(products + kVector);
    sum0.store(plain);
    sum1.store(plain + kVector);
  }

  // From h and dv, v = g s + beta and dh = (dv s + g f) GELU'(h), and the sums of dh over the rows, not rounded.
  static void gradient(float* __restrict__ h,             // [rows][kBlock]
                       float* __restrict__ dv,            // [rows][kBlock]
                       int64_t rows,                      //
                       const float* __restrict__ factor,  // [kBlock]: f = dn / n
                       const float* __restrict__ scale,   // [kBlock]: s
                       const float* __restrict__ beta,    // [kBlock]
                       float* __restrict__ sums) {        // [kBlock]
    if constexpr (kPairs) {
      Columns low(factor, scale, beta), high(factor + kVector, scale + kVector, beta + kVector);
      for (int64_t r = 0; r < rows; ++r, h += kBlock, dv += kBlock) {
        V v0, v1;
        const V dh0 = low.gradient(V::load(h), V::load(dv), v0);
        const V dh1 = high.gradient(V::load(h + kVector), V::load(dv + kVector), v1);
        Op::store(dh0, dh1, dv);
        Op::store(v0, v1, dv + kWords);
      }
      low.sum.store(sums);
      high.sum.store(sums + kVector);
    } else {
      unroll<0, 2>([&](auto half) CNV2_LAMBDA {
        constexpr int at = half.value * kVector;
        Columns columns(factor + at, scale + at, beta + at);
        for (int64_t r = 0; r < rows; ++r) {
          float *hr = h + r * kBlock + at, *dr = dv + r * kBlock + at;
          V v;
          columns.gradient(V::load(hr), V::load(dr), v).store(dr);
          v.store(hr);
        }
        columns.sum.store(sums + at);
      });
    }
  }

 private:
  struct Columns {
    V f, s, beta, sum = V::zero();

    CNV2_INLINE Columns(const float* factor, const float* scale, const float* shift)
        : f(V::load(factor)), s(V::load(scale)), beta(V::load(shift)) {}

    CNV2_INLINE V gradient(V h, V dv, V& v) {
      V slope;
      const V g = Activation::value_and_slope(h, slope);
      const V dh = V::mul(V::fma(dv, s, V::mul(g, f)), slope);
      sum = V::add(sum, dh);
      v = V::fma(g, s, beta);
      return dh;
    }
  };
};

}  // namespace
}  // namespace cnv2
