// LayerNorm of sites whose float32 values are in the cache: two passes for the statistics. Internal linkage throughout.
#pragma once

#include "cpu/common/moments.h"
#include "cpu/common/unroll.h"
#include "cpu/common/vec.h"
#include "dwconv.h"

namespace cnv2 {
namespace {

// kCount sites at once hide the latency of their sums and share the loads of the weights.
template <class V, class T, int kCount>
struct Normalize {
  static constexpr int kWidth = V::width;
  static constexpr int kPartials = 2;

  // Calls body(Index<partial sum>, first channel) for every vector of channels below `end`, over the sums in turn.
  template <class F>
  static CNV2_INLINE void each_vector(int64_t end, const F& body) {
    const int64_t whole = end / (kPartials * kWidth) * (kPartials * kWidth);
    for (int64_t c = 0; c < whole; c += kPartials * kWidth) {
      unroll<0, kPartials>([&](auto s) CNV2_LAMBDA { body(s, c + s.value * kWidth); });
    }
    for (int64_t c = whole; c < end; c += kWidth) body(Index<0>{}, c);
  }

  static CNV2_INLINE float total(const V* sums) {
    V all = sums[0];
    unroll<1, kPartials>([&](auto s) CNV2_LAMBDA { all = V::add(all, sums[s.value]); });
    return all.sum();
  }

  // `z[k]`: site k's values, the lanes past C zero; `offset[k]`: of its row in the outputs; `ln`: per vector of
  // channels the weights, then the biases. Every site is added up in the same order whatever kCount is: results must
  // not depend on the tiling.
  static void run(const DwconvForward& p, const float* const (&z)[kCount], const int64_t (&offset)[kCount],
                  const float* __restrict__ ln) {  // [blocks][2][kWidth]
    const int64_t full = p.c / kWidth * kWidth;
    const int lanes = static_cast<int>(p.c - full);
    const float inverse_c = 1.0f / static_cast<float>(p.c);

    V sum[kCount][kPartials], square[kCount][kPartials];
    float mean[kCount];
    RowMoments of[kCount];
    unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
      unroll<0, kPartials>([&](auto s) CNV2_LAMBDA { sum[k.value][s.value] = square[k.value][s.value] = V::zero(); });
    });
    each_vector(p.c, [&](auto s, int64_t c) CNV2_LAMBDA {
      unroll<0, kCount>(
          [&](auto k) CNV2_LAMBDA { sum[k.value][s.value] = V::add(sum[k.value][s.value], V::load(z[k.value] + c)); });
    });
    unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
      mean[k.value] = total(sum[k.value]) * inverse_c;
      unroll<0, kPartials>([&](auto s) CNV2_LAMBDA { sum[k.value][s.value] = V::zero(); });
    });
    each_vector(full, [&](auto s, int64_t c) CNV2_LAMBDA {
      unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
        const V d = V::sub(V::load(z[k.value] + c), V::set(mean[k.value]));
        sum[k.value][s.value] = V::add(sum[k.value][s.value], d);
        square[k.value][s.value] = V::fma(d, d, square[k.value][s.value]);
      });
    });
    unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
      if (lanes > 0) {
        const V d = V::sub(V::load(z[k.value] + full), V::set(mean[k.value])).keep(lanes);
        sum[k.value][0] = V::add(sum[k.value][0], d);
        square[k.value][0] = V::fma(d, d, square[k.value][0]);
      }
      of[k.value] = moments_about(mean[k.value], total(sum[k.value]), total(square[k.value]), p.c, p.eps);
    });

    T* y = static_cast<T*>(p.y);
    const auto unit = [&](auto k, int64_t c) CNV2_LAMBDA {
      return V::mul(V::sub(V::load(z[k.value] + c), V::set(of[k.value].mean)), V::set(of[k.value].rstd));
    };
    for (int64_t c = 0; c < full; c += kWidth) {
      const V weight = V::load(ln + 2 * c), bias = V::load(ln + 2 * c + kWidth);
      unroll<0, kCount>([&](auto k) CNV2_LAMBDA { V::fma(unit(k, c), weight, bias).store(y + offset[k.value] + c); });
    }
    if (lanes > 0) {
      const V weight = V::load(ln + 2 * full), bias = V::load(ln + 2 * full + kWidth);
      unroll<0, kCount>(
          [&](auto k) CNV2_LAMBDA { V::fma(unit(k, full), weight, bias).store(y + offset[k.value] + full, lanes); });
    }
    if (p.z == nullptr) return;
    for (int k = 0; k < kCount; ++k) {
      T* out = static_cast<T*>(p.z) + offset[k];
      for (int64_t c = 0; c < full; c += kWidth) V::load(z[k] + c).store(out + c);
      if (lanes > 0) V::load(z[k] + full).store(out + full, lanes);
    }
  }
};

}  // namespace
}  // namespace cnv2
