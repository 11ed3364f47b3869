// The one source of LayerNorm's CPU kernels, a template over the vector type. All names have internal linkage.
#pragma once

#include <cstring>

#include "cpu/common/moments.h"
#include "cpu/common/rows.h"
#include "cpu/common/scratch.h"
#include "layer_norm.h"

namespace cnv2 {
namespace {

template <class V>
struct LayerNormKernel {
  using R = RowVectors<V>;

  static void forward(const LayerNormForward& p, const Parallel& parallel) {
    const int64_t padded = R::padded(p.c);
    float* params = thread_scratch(ScratchSlot::kVectors, 2 * padded);
    float* bias = params + padded;
    R::widen(p.weight, p.c, params);
    R::widen(p.bias, p.c, bias);
    parallel(0, p.rows, grain(8 * p.c), [&](int64_t begin, int64_t end) {
      with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
        auto* y = static_cast<StoredAs<decltype(x)>*>(p.y);
        for (int64_t r = begin; r < end; ++r) {
          const Moments m = moments(x + r * p.c, p.c, p.eps);
          R::each(p.c, [&](int64_t c, int lanes) CNV2_LAMBDA {
            const V hat = V::mul(V::sub(R::load(x + r * p.c + c, lanes), m.mean), m.rstd);
            R::store(V::fma(hat, V::load(params + c), V::load(bias + c)), y + r * p.c + c, lanes);
          });
        }
      });
    });
  }

  // With g = dy weight and xhat the normalised x: dx = rstd (g - mean g - xhat mean(g xhat)).
  static void backward(const LayerNormBackward& p, const Parallel& parallel) {
    const RowSlabs slabs(p.rows);
    const int64_t padded = R::padded(p.c), part = 2 * padded;
    float* weight = thread_scratch(ScratchSlot::kVectors, padded);
    float* partial = thread_scratch(ScratchSlot::kGroups, (slabs.count() > 0 ? slabs.count() : 1) * part);
    R::widen(p.weight, p.c, weight);
    parallel(0, slabs.count(), grain(16 * slabs.slab * p.c), [&](int64_t begin, int64_t end) {
      float* sums = thread_scratch(ScratchSlot::kOperand, part);
      for (int64_t i = begin; i < end; ++i) {
        std::memset(partial + i * part, 0, part * sizeof(float));
        slabs.each_run(i, [&](int64_t first, int64_t last) {
          std::memset(sums, 0, part * sizeof(float));
          with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
            for (int64_t r = first; r < last; ++r) row_backward(p, x, r, weight, sums);
          });
          R::add(partial + i * part, sums, part);
        });
      }
    });
    if (slabs.count() == 0) std::memset(partial, 0, part * sizeof(float));
    R::add_in_pairs(partial, slabs.count(), part);
    std::memcpy(p.dparams, partial, p.c * sizeof(float));
    std::memcpy(p.dparams + p.c, partial + padded, p.c * sizeof(float));
  }

 private:
  struct Moments {
    V mean, rstd;
  };
  template <class T>
  static CNV2_INLINE Moments moments(const T* __restrict__ x,  // [C]
                                     int64_t channels, float eps) {
    V sum = V::zero(), rest = V::zero(), square = V::zero();
    R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA { sum = V::add(sum, R::load(x + c, lanes)); });
    const float estimate = sum.sum() / static_cast<float>(channels);
    const V centre = V::set(estimate);
    R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA {
      V d = V::sub(R::load(x + c, lanes), centre);
      if (lanes < V::width) d = d.keep(lanes);
      rest = V::add(rest, d);
      square = V::fma(d, d, square);
    });
    const RowMoments m = moments_about(estimate, rest.sum(), square.sum(), channels, eps);
    return {V::set(m.mean), V::set(m.rstd)};
  }

  template <class T>
  static CNV2_INLINE void row_backward(const LayerNormBackward& p,
                                       const T* __restrict__ all,  // x, [T, C]
                                       int64_t r,
                                       const float* __restrict__ weight,  // [padded C]
                                       float* __restrict__ partial) {     // [2, padded C]
    const T *x = all + r * p.c, *dy = static_cast<const T*>(p.dy.data) + r * p.c;
    auto* dx = static_cast<std::remove_const_t<T>*>(p.dx) + r * p.c;
    float* partial_bias = partial + R::padded(p.c);
    const Moments m = moments(x, p.c, p.eps);
    V sum = V::zero(), product = V::zero();
    R::each(p.c, [&](int64_t c, int lanes) CNV2_LAMBDA {  // lanes beyond the row: dy and weight are zero there
      const V d = R::load(dy + c, lanes), hat = V::mul(V::sub(R::load(x + c, lanes), m.mean), m.rstd);
      const V g = V::mul(d, V::load(weight + c));
      sum = V::add(sum, g);
      product = V::fma(g, hat, product);
      V::fma(d, hat, V::load(partial + c)).store(partial + c);
      V::add(d, V::load(partial_bias + c)).store(partial_bias + c);
    });
    const float share = 1.f / static_cast<float>(p.c);
    const V mean = V::set(sum.sum() * share), slope = V::set(-product.sum() * share);
    R::each(p.c, [&](int64_t c, int lanes) CNV2_LAMBDA {
      const V hat = V::mul(V::sub(R::load(x + c, lanes), m.mean), m.rstd);
      const V g = V::sub(V::mul(R::load(dy + c, lanes), V::load(weight + c)), mean);
      R::store(V::mul(V::fma(hat, slope, g), m.rstd), dx + c, lanes);
    });
  }
};

}  // namespace
}  // namespace cnv2
