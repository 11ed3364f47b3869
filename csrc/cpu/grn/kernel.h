// The one source of GRN's CPU kernels, a template over the vector type. All names have internal linkage.
//
// Forward: y = x s + beta, s = 1 + gamma n / m, m = mean n + eps, n = ||x|| per group and channel. Backward, with
// p = sum dy x per group: dn = gamma p / m - sum_c(gamma p n) / (m^2 C), dx = dy s + x dn / n (0 where n is),
// dgamma = sum_groups p n / m, dbeta = sum dy.
#pragma once

#include <cmath>

#include "cpu/common/row_sums.h"
#include "grn.h"

namespace cnv2 {
namespace {

template <class V>
struct GrnKernel {
  using R = RowVectors<V>;
  using G = Gemm<V, 1>;

  static void forward(const GrnForward& p, const Parallel& parallel) {
    const int64_t width = R::padded(p.c);
    float* vectors = thread_scratch(ScratchSlot::kVectors, 2 * (width + 2 * V::width) + 2 * width);
    float *gamma = vectors, *beta = gamma + width + 2 * V::width, *squares = beta + width + 2 * V::width;
    float* scale = squares + width;
    G::pack_vector(p.gamma, p.c, gamma);
    G::pack_vector(p.beta, p.c, beta);
    G::as(p.x.dtype, p.x.data, [&](auto* x) {
      auto* y = static_cast<std::remove_const_t<std::remove_pointer_t<decltype(x)>>*>(p.y);
      each_group(p.groups, [&](int64_t g, int64_t first, int64_t rows) {
        column_sums<1>(parallel, rows, p.c, squares, [&](int64_t r, int64_t c, int lanes, V* sums) CNV2_LAMBDA {
          const V v = R::load(x + (first + r) * p.c + c, lanes);
          sums[0] = V::fma(v, v, sums[0]);
        });
        double total = 0;
        for (int64_t c = 0; c < p.c; ++c) total += p.norm[g * p.c + c] = std::sqrt(squares[c]);
        const float m = static_cast<float>(total / static_cast<double>(p.c)) + p.eps;
        for (int64_t c = 0; c < p.c; ++c) scale[c] = 1.f + gamma[c] * (p.norm[g * p.c + c] / m);
        each_row(parallel, first, rows, p.c, [&](int64_t at, int64_t c, int lanes) CNV2_LAMBDA {
          R::store(V::fma(R::load(x + at, lanes), V::load(scale + c), V::load(beta + c)), y + at, lanes);
        });
      });
    });
  }

  static void backward(const GrnBackward& p, const Parallel& parallel) {
    const int64_t width = R::padded(p.c);
    float* gamma = thread_scratch(ScratchSlot::kVectors, 5 * width + 2 * V::width);
    float *sums = gamma + width + 2 * V::width, *scale = sums + 2 * width, *factor = scale + width;
    G::pack_vector(p.gamma, p.c, gamma);
    std::memset(p.dgamma, 0, p.c * sizeof(float));
    std::memset(p.dbeta, 0, p.c * sizeof(float));
    G::as(p.x.dtype, p.x.data, [&](auto* x) {
      const auto* dy = static_cast<decltype(x)>(p.dy.data);
      auto* dx = static_cast<std::remove_const_t<std::remove_pointer_t<decltype(x)>>*>(p.dx);
      each_group(p.groups, [&](int64_t g, int64_t first, int64_t rows) {
        column_sums<2>(parallel, rows, p.c, sums, [&](int64_t r, int64_t c, int lanes, V* both) CNV2_LAMBDA {
          const V d = R::load(dy + (first + r) * p.c + c, lanes);
          both[0] = V::fma(d, R::load(x + (first + r) * p.c + c, lanes), both[0]);
          both[1] = V::add(both[1], d);
        });
        factors(p, p.norm + g * p.c, gamma, sums, width, scale, factor);
        each_row(parallel, first, rows, p.c, [&](int64_t at, int64_t c, int lanes) CNV2_LAMBDA {
          const V kept = V::mul(R::load(dy + at, lanes), V::load(scale + c));
          R::store(V::fma(R::load(x + at, lanes), V::load(factor + c), kept), dx + at, lanes);
        });
      });
    });
  }

 private:
  static void factors(const GrnBackward& p, const float* norm, const float* gamma, const float* sums, int64_t width,
                      float* scale, float* factor) {
    double total = 0, shared = 0;
    for (int64_t c = 0; c < p.c; ++c) {
      total += norm[c];
      shared += static_cast<double>(gamma[c] * sums[c]) * norm[c];
    }
    const double n = static_cast<double>(p.c);
    const float m = static_cast<float>(total / n) + p.eps, inverse = 1.f / m;
    const float back = static_cast<float>(shared / (static_cast<double>(m) * m * n));
    for (int64_t c = 0; c < p.c; ++c) {
      p.dgamma[c] += sums[c] * norm[c] * inverse;
      p.dbeta[c] += sums[width + c];
      scale[c] = 1.f + gamma[c] * norm[c] * inverse;
      factor[c] = norm[c] > 0.f ? (gamma[c] * sums[c] * inverse - back) / norm[c] : 0.f;
    }
  }

  // Calls body(group, first row, rows).
  template <class F>
  static void each_group(const RowGroups& groups, const F& body) {
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t first = groups.offsets != nullptr ? groups.offsets[g] : g * groups.rows_per_group;
      body(g, first, groups.offsets != nullptr ? groups.offsets[g + 1] - first : groups.rows_per_group);
    }
  }

  // kSums sums over the rows of a group, out [kSums][padded C]; term(row, channel, lanes, sums) adds a row's.
  template <int kSums, class F>
  static void column_sums(const Parallel& parallel, int64_t rows, int64_t channels, float* out, const F& term) {
    const RowSlabs slabs(rows);
    const int64_t width = R::padded(channels), part = kSums * width;
    float* partial = thread_scratch(ScratchSlot::kGroups, slabs.count() * part + 1);
    parallel(0, slabs.count(), G::grain(4 * slabs.slab * channels), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* to = partial + i * part;
        std::memset(to, 0, part * sizeof(float));
        for (int64_t r = slabs.begin(i); r < slabs.end(i); ++r) {
          R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA {
            V sums[kSums];
            unroll<0, kSums>([&](auto s) CNV2_LAMBDA { sums[s.value] = V::load(to + s.value * width + c); });
            term(r, c, lanes, sums);
            unroll<0, kSums>([&](auto s) CNV2_LAMBDA { sums[s.value].store(to + s.value * width + c); });
          });
        }
      }
    });
    std::memset(out, 0, part * sizeof(float));
    for (int64_t i = 0; i < slabs.count(); ++i) {
      for (int64_t c = 0; c < part; c += V::width) {
        V::add(V::load(out + c), V::load(partial + i * part + c)).store(out + c);
      }
    }
  }

  // Calls body(element, channel, lanes) for all vectors of rows [first, first + rows).
  template <class F>
  static void each_row(const Parallel& parallel, int64_t first, int64_t rows, int64_t channels, const F& body) {
    parallel(0, rows, G::grain(4 * channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = first + begin; r < first + end; ++r) {
        R::each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA { body(r * channels + c, c, lanes); });
      }
    });
  }
};

}  // namespace
}  // namespace cnv2
