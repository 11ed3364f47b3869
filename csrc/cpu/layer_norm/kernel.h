// The one source of LayerNorm's CPU kernels, a template over the vector type. All names have internal linkage.
#pragma once

#include <cmath>
#include <cstring>

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
    float* partial = thread_scratch(ScratchSlot::kGroups, slabs.count() * part);
    R::widen(p.weight, p.c, weight);
    parallel(0, slabs.count(), grain(16 * slabs.slab * p.c), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::memset(partial + i * part, 0, part * sizeof(float));
        with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
          for (int64_t r = slabs.begin(i); r < slabs.end(i); ++r) row_backward(p, x, r, weight, partial + i * part);
        });
      }
    });
    std::memset(p.dparams, 0, 2 * p.c * sizeof(float));
    for (int64_t i = 0; i < slabs.count(); ++i) {
      for (int64_t c = 0; c < p.c; ++c) {
        p.dparams[c] += partial[i * part + c];
        p.dparams[p.c + c] += partial[i * part + padded + c];
      }
    }
  }

 private:
  struct Moments {
    V mean, rstd;
  };
  template <class T>
  static CNV2_INLINE Moments moments(const T* __restrict__ x,  // [C]
                                     int64_t channels, float eps) {
    V sum = V::zero(), square = V::zero();
    R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA { sum = V::add(sum, R::load(x + c, lanes)); });
    const V mean = V::set(sum.sum() / static_cast<float>(channels));
    R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA {
      V d = V::sub(R::load(x + c, lanes), mean);
      if (lanes < V::width) d = d.keep(lanes);
      square = V::fma(d, d, square);
    });
    return {mean, V::set(1.f / std::sqrt(square.sum() / static_cast<float>(channels) + eps))};
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
