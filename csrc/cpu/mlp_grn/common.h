// What the forward and the backward of mlp_grn share: packed weights, products of whole row blocks, division of labour.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "cnv2/gelu_vec.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/tiles.h"
#include "cpu/scratch.h"
#include "mlp_grn.h"
#include "plan.h"

namespace cnv2 {
namespace {

template <class V, int kRows>
struct MlpGrnCommon {
  using T = Tiles<V, kRows>;
  static constexpr int kVector = T::kVector, kBlock = T::kBlock;
  static constexpr int64_t kDepth = 256;       // of a reduction taken at once: a panel's slice is 32 KB at 32 columns
  static constexpr int64_t kRowsAtOnce = 448;  // their slice is 448 KB
  static constexpr int64_t kThreadWork = 128 * 1024;     // multiply-adds that are worth waking a thread for

  // ---- packed weights ---------------------------------------------------------------------------------------------

  struct Packed {
    const float *w1, *b1, *w2, *b2;  // b2 + w2 beta: GRN's beta is a constant of every row
  };
  static int64_t w1_floats(const MlpGrnShape& s) { return T::blocks(s.hidden) * s.c_in * kBlock; }
  static int64_t w2_floats(const MlpGrnShape& s) { return T::blocks(s.c_out) * s.hidden * kBlock; }
  static int64_t packed_floats(const MlpGrnShape& s) {
    return w1_floats(s) + w2_floats(s) + (T::blocks(s.hidden) + T::blocks(s.c_out)) * kBlock + kSampled;
  }
  static Packed unpack(const MlpGrnShape& s, const float* packed) {
    const float* w2 = packed + w1_floats(s);
    const float* b1 = w2 + w2_floats(s);
    return {packed, b1, w2, b1 + T::blocks(s.hidden) * kBlock};
  }

  // body(data as a pointer to its storage type); `Void` is void or const void.
  template <class Void, class F>
  static void as(DType dtype, Void* data, const F& body) {
    switch (dtype) {
      case DType::kFloat32:
        return body(static_cast<Storage<Void, float>*>(data));
      case DType::kBFloat16:
        return body(static_cast<Storage<Void, BFloat16>*>(data));
      case DType::kFloat16:
        return body(static_cast<Storage<Void, Half>*>(data));
    }
  }
  template <class Void, class S>
  using Storage = std::conditional_t<std::is_const_v<Void>, const S, S>;
  static void pack_vector(const ConstArray& v, int64_t n, float* out) {
    as(v.dtype, v.data, [&](auto* data) { Pack<V>::vector(data, n, out); });
  }
  // Rows [first, first + rows) of x to the blocked rows from `out` on; `height` rows from one column block to the next.
  static void pack_rows(const ConstArray& x, int64_t first, int64_t rows, int64_t columns, float* out,
                        int64_t height) {
    as(x.dtype, x.data,
       [&](auto* data) { Pack<V>::rows(data + first * columns, rows, columns, out, height * kBlock); });
  }
  // All panels of w [n, k] as torch.nn.Linear has it.
  static void pack_transposed(const ConstArray& w, int64_t n, int64_t k, float* out, const Parallel& parallel) {
    parallel(0, T::blocks(n), grain(k * kBlock * 4), [&](int64_t j0, int64_t j1) {
      as(w.dtype, w.data, [&](auto* data) {
        for (int64_t j = j0; j < j1; ++j) Pack<V>::panel_transposed(data, n, k, j, out + j * k * kBlock);
      });
    });
  }
  // All panels of w [k, n].
  static void pack_panels(const ConstArray& w, int64_t k, int64_t n, float* out, const Parallel& parallel) {
    parallel(0, T::blocks(n), grain(k * kBlock), [&](int64_t j0, int64_t j1) {
      as(w.dtype, w.data, [&](auto* data) {
        for (int64_t j = j0; j < j1; ++j) Pack<V>::panel(data, k, n, j, out + j * k * kBlock);
      });
    });
  }

  // Some values of every tensor, kept behind the packed weights to tell whether they are still those of the tensors.
  static constexpr int kSamples = 16, kSampled = 5 * kSamples;
  static void sample(const MlpGrnShape& s, const MlpGrnWeights& w, float* out) {
    const auto take = [&](const ConstArray& a, int64_t count) {
      as(a.dtype, a.data, [&](auto* data) {
        for (int64_t i = 0; i < kSamples; ++i) *out++ = to_float(data[(2 * i + 1) * count / (2 * kSamples)]);
      });
    };
    take(w.w1, s.hidden * s.c_in), take(w.b1, s.hidden), take(w.beta, s.hidden);
    take(w.w2, s.hidden * s.c_out), take(w.b2, s.c_out);
  }
  static bool stale(const MlpGrnShape& s, const MlpGrnWeights& w, const float* packed) {
    float now[kSampled];
    sample(s, w, now);
    return std::memcmp(now, packed + packed_floats(s) - kSampled, sizeof(now)) != 0;
  }

  static void pack(const MlpGrnShape& s, const MlpGrnWeights& w, float* packed, const Parallel& parallel) {
    sample(s, w, packed + packed_floats(s) - kSampled);
    const Packed to = unpack(s, packed);
    pack_transposed(w.w1, s.hidden, s.c_in, const_cast<float*>(to.w1), parallel);
    pack_transposed(w.w2, s.c_out, s.hidden, const_cast<float*>(to.w2), parallel);
    pack_vector(w.b1, s.hidden, const_cast<float*>(to.b1));
    float *b2 = const_cast<float*>(to.b2), *beta = thread_scratch(ScratchSlot::kVectors, T::blocks(s.hidden) * kBlock);
    pack_vector(w.b2, s.c_out, b2);
    pack_vector(w.beta, s.hidden, beta);
    for (int64_t o = 0; o < T::blocks(s.c_out); ++o) {
      const float* panel = to.w2 + o * s.hidden * kBlock;
      V sum0 = V::zero(), sum1 = V::zero();
      for (int64_t k = 0; k < s.hidden; ++k, panel += kBlock) {
        sum0 = V::fma(V::set(beta[k]), V::load(panel), sum0);
        sum1 = V::fma(V::set(beta[k]), V::load(panel + kVector), sum1);
      }
      V::add(V::load(b2 + o * kBlock), sum0).store(b2 + o * kBlock);
      V::add(V::load(b2 + o * kBlock + kVector), sum1).store(b2 + o * kBlock + kVector);
    }
  }

  // ---- products ---------------------------------------------------------------------------------------------------

  // c = start + a b, slice by slice of the reduction: a panel's slice of b stays in the first-level cache for all rows,
  // the rows' slice of a in the second level. prepare(k, depth) comes before a slice, finish(j) after a block's last;
  // slice(j, k, depth) is where to read that of b.
  struct Matrices {
    const float* a;
    int64_t a_stride;
    const float* b;
    int64_t k;  // length of the reduction
    float* c;
    int64_t c_stride;
    const float* start;  // [blocks][kBlock], null: zeros
    int64_t rows, blocks;
  };
  template <class Prepare, class Slice, class Finish>
  static CNV2_INLINE void multiply(const Matrices& m, const Prepare& prepare, const Slice& slice,
                                   const Finish& finish) {
    for (int64_t k = 0; k < m.k; k += kDepth) {
      const int64_t depth = m.k - k < kDepth ? m.k - k : kDepth;
      prepare(k, depth);
      for (int64_t j = 0; j < m.blocks; ++j) {
        typename T::Product p{};
        p.a = m.a + k / kBlock * m.a_stride, p.a_stride = m.a_stride;
        p.b = slice(j, k, depth);
        p.k = depth;
        p.c = m.c + j * m.c_stride;
        p.start = k > 0 ? nullptr : m.start != nullptr ? m.start + j * kBlock : kZeros;
        // The next panel's slice comes into the cache during the first tile.
        p.ahead = m.b + ((j + 1 < m.blocks ? j + 1 : j) * m.k + k) * kBlock;
        for (int64_t r = 0; r < m.rows; r += kRows) {
          T::product(p, static_cast<int>(m.rows - r < kRows ? m.rows - r : kRows));
          p.a += kRows * kBlock;
          p.c += kRows * kBlock;
          p.ahead = p.b;
        }
        if (k + depth == m.k) finish(j);
      }
    }
  }
  alignas(64) static constexpr float kZeros[kBlock] = {};

  static void add(float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += kVector) V::add(V::load(to + i), V::load(from + i)).store(to + i);
  }

  // Their square roots in place of `width` sums, and the mean of the first `count`.
  static float roots(float* sums, int64_t width, int64_t count) {
    double total = 0;
    for (int64_t k = 0; k < width; ++k) sums[k] = std::sqrt(sums[k]);
    for (int64_t k = 0; k < count; ++k) total += sums[k];
    return static_cast<float>(total / static_cast<double>(count));
  }

  // ---- division of labour -----------------------------------------------------------------------------------------

  static int64_t grain(int64_t work) { return kThreadWork / (work > 0 ? work : 1) + 1; }

  // Calls body(run of row blocks, its first row, its rows) for runs of about kRowsAtOnce rows.
  template <class F>
  static CNV2_INLINE void each_run(const RowBlock* blocks, int64_t begin, int64_t end, const F& body) {
    while (begin < end) {
      int64_t last = begin + 1;
      while (last < end && blocks[last].end - blocks[begin].begin <= kRowsAtOnce) ++last;
      body(begin, last, blocks[begin].begin, blocks[last - 1].end - blocks[begin].begin);
      begin = last;
    }
  }

  // Threads share the row blocks where there are enough for all; else each takes all rows and some of the columns.
  static bool by_rows(const RowBlock* blocks, int64_t count, int64_t rows, int64_t threads) {
    if (threads <= 1) return true;
    const int64_t share = (count + threads - 1) / threads;  // parallel loops give every thread so many blocks
    int64_t most = 0;
    for (int64_t b = 0; b < count; b += share) {
      const int64_t last = b + share < count ? b + share : count;
      const int64_t here = blocks[last - 1].end - blocks[b].begin;
      most = here > most ? here : most;
    }
    return most * threads * 8 <= rows * 9 && rows >= 4 * kRows * threads;
  }

  // Runs body(b0, b1, j0, j1) over row blocks [0, count) and columns [0, columns); `work` multiply-adds a column.
  template <class F>
  static void split(const Parallel& parallel, bool by_rows, int64_t count, int64_t columns, int64_t work,
                    const F& body) {
    if (by_rows) {
      parallel(0, count, grain(work * columns / count),
               [&](int64_t b0, int64_t b1) { body(b0, b1, int64_t{0}, columns); });
    } else {
      parallel(0, columns, grain(work), [&](int64_t j0, int64_t j1) { body(int64_t{0}, count, j0, j1); });
    }
  }
};

}  // namespace
}  // namespace cnv2
