// The one source of GRN's CPU kernels, a template over the vector type. All names have internal linkage.
//
// Each pass reads a group's rows twice: for its sums, then with the factors that factors.h makes of them.
#pragma once

#include <cstring>

#include "cpu/common/rows.h"
#include "cpu/common/scratch.h"
#include "factors.h"
#include "grn.h"

namespace cnv2 {
namespace {

template <class V>
struct GrnKernel {
  using R = RowVectors<V>;

  static void forward(const GrnForward& p, const Parallel& parallel) {
    const int64_t width = R::padded(p.c);
    float* gamma = thread_scratch(ScratchSlot::kVectors, 4 * width);
    float *beta = gamma + width, *squares = beta + width, *scale = squares + width;
    R::widen(p.gamma, p.c, gamma);
    R::widen(p.beta, p.c, beta);
    with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
      auto* y = static_cast<StoredAs<decltype(x)>*>(p.y);
      each_group(p.groups, [&](int64_t g, int64_t first, int64_t rows) {
        column_sums<1>(parallel, rows, p.c, squares, [&](int64_t r, int64_t c, int lanes, V* sums) CNV2_LAMBDA {
          const V v = R::load(x + (first + r) * p.c + c, lanes);
          sums[0] = V::fma(v, v, sums[0]);
        });
        GrnFactors<V>::forward(squares, gamma, width, p.c, p.eps, scale);
        std::memcpy(p.norm + g * p.c, squares, p.c * sizeof(float));
        each_row(parallel, first, rows, p.c, [&](int64_t at, int64_t c, int lanes) CNV2_LAMBDA {
          R::store(V::fma(R::load(x + at, lanes), V::load(scale + c), V::load(beta + c)), y + at, lanes);
        });
      });
    });
  }

  static void backward(const GrnBackward& p, const Parallel& parallel) {
    const int64_t width = R::padded(p.c);
    float* gamma = thread_scratch(ScratchSlot::kVectors, 7 * width);
    float *product = gamma + width, *sum = product + width;  // factors.h: in the end, dn / n and s
    const GrnGradients gradients(sum + width, p.c);
    R::widen(p.gamma, p.c, gamma);
    with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
      const auto* dy = static_cast<decltype(x)>(p.dy.data);
      auto* dx = static_cast<StoredAs<decltype(x)>*>(p.dx);
      each_group(p.groups, [&](int64_t g, int64_t first, int64_t rows) {
        column_sums<2>(parallel, rows, p.c, product, [&](int64_t r, int64_t c, int lanes, V* both) CNV2_LAMBDA {
          const V d = R::load(dy + (first + r) * p.c + c, lanes);
          both[0] = V::fma(d, R::load(x + (first + r) * p.c + c, lanes), both[0]);
          both[1] = V::add(both[1], d);
        });
        GrnFactors<V>::backward(p.norm + g * p.c, gamma, p.c, p.eps, product, sum, gradients);
        each_row(parallel, first, rows, p.c, [&](int64_t at, int64_t c, int lanes) CNV2_LAMBDA {
          const V scaled = V::mul(R::load(dy + at, lanes), V::load(sum + c));
          R::store(V::fma(R::load(x + at, lanes), V::load(product + c), scaled), dx + at, lanes);
        });
      });
    });
    gradients.round(p.dgamma, p.dbeta);
  }

 private:
  // Calls body(group, first row, rows).
  template <class F>
  static void each_group(const RowGroups& groups, const F& body) {
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t first = first_row(groups, g);
      body(g, first, first_row(groups, g + 1) - first);
    }
  }

  // kSums sums over the rows of a group; term(row, channel, lanes, sums) adds a row's.
  template <int kSums, class F>
  static void column_sums(const Parallel& parallel, int64_t rows, int64_t channels,
                          float* __restrict__ out,  // [kSums, padded C]
                          const F& term) {
    const RowSlabs slabs(rows);
    const int64_t width = R::padded(channels), part = kSums * width;
    float* partial = thread_scratch(ScratchSlot::kGroups, (slabs.count() > 0 ? slabs.count() : 1) * part);
    if (slabs.count() == 0) std::memset(partial, 0, part * sizeof(float));
    parallel(0, slabs.count(), grain(4 * slabs.slab * channels), [&](int64_t begin, int64_t end) {
      float* to = thread_scratch(ScratchSlot::kOperand, part);
      for (int64_t i = begin; i < end; ++i) {
        std::memset(partial + i * part, 0, part * sizeof(float));
        slabs.each_run(i, [&](int64_t first, int64_t last) {
          std::memset(to, 0, part * sizeof(float));
          for (int64_t r = first; r < last; ++r) {
            R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA {
              V sums[kSums];
              unroll<0, kSums>([&](auto s) CNV2_LAMBDA { sums[s.value] = V::load(to + s.value * width + c); });
              term(r, c, lanes, sums);
              unroll<0, kSums>([&](auto s) CNV2_LAMBDA { sums[s.value].store(to + s.value * width + c); });
            });
          }
          R::add(partial + i * part, to, part);
        });
      }
    });
    R::add_in_pairs(partial, slabs.count(), part);
    std::memcpy(out, partial, part * sizeof(float));
  }

  // Calls body(element, channel, lanes) for all vectors of rows [first, first + rows).
  template <class F>
  static void each_row(const Parallel& parallel, int64_t first, int64_t rows, int64_t channels, const F& body) {
    parallel(0, rows, grain(4 * channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = first + begin; r < first + end; ++r) {
        R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA { body(r * channels + c, c, lanes); });
      }
    });
  }
};

}  // namespace
}  // namespace cnv2
