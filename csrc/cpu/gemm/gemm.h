// Matrix products of the CPU kernels: packing in the storage types, and the loops around the register tiles.
#pragma once

#include "amx.h"
#include "cpu/common/dtype_switch.h"
#include "cpu/common/parallel.h"
#include "pack.h"

namespace cnv2 {

namespace {

constexpr int64_t kGradientFloats = 96 << 10;  // of a weight's gradient that stays in the cache while rows are added

template <class V, int kRows, class Op = PlainFloats<V>>
struct Gemm {
  using T = Tiles<V, kRows, Op>;
  static constexpr int kVector = T::kVector, kBlock = T::kBlock, kWords = T::kWords, kRow = T::kRow;
  static constexpr int64_t kDepth = 192;       // words of a reduction at once: a panel's slice is 24 KB at 32 columns
  static constexpr int64_t kRowsAtOnce = 448;  // their slice is 336 KB

  // A vector [n] as floats, completed with zeros to whole blocks.
  static void pack_vector(const ConstArray& v, int64_t n, float* __restrict__ out) {
    with_dtype(v.dtype, v.data, [&](auto* data) { Pack<V>::vector(data, n, out); });
  }
  // Rows [first, first + rows) of x to the blocked rows from `out` on; `height` rows from one column block to the next.
  static void pack_rows(const ConstArray& x, int64_t first, int64_t rows, int64_t columns, float* __restrict__ out,
                        int64_t height) {
    with_dtype(x.dtype, x.data,
               [&](auto* data) { Pack<V, Op>::rows(data + first * columns, rows, columns, out, height * kWords); });
  }
  // All panels of w [n, k] as torch.nn.Linear has it.
  static void pack_transposed(const ConstArray& w, int64_t n, int64_t k,
                              float* __restrict__ out,  // [blocks(n)][words(k)][kBlock]
                              const Parallel& parallel) {
    parallel(0, T::blocks(n), grain(k * kBlock * 4), [&](int64_t j0, int64_t j1) {
      with_dtype(w.dtype, w.data, [&](auto* data) {
        for (int64_t j = j0; j < j1; ++j) Pack<V, Op>::panel_transposed(data, n, k, j, out + j * T::words(k) * kBlock);
      });
    });
  }
  // All panels of w [k, n].
  static void pack_panels(const ConstArray& w, int64_t k, int64_t n,
                          float* __restrict__ out,  // [blocks(n)][words(k)][kBlock]
                          const Parallel& parallel) {
    parallel(0, T::blocks(n), grain(k * kBlock), [&](int64_t j0, int64_t j1) {
      with_dtype(w.dtype, w.data, [&](auto* data) {
        for (int64_t j = j0; j < j1; ++j) Pack<V, Op>::panel(data, k, n, j, out + j * T::words(k) * kBlock);
      });
    });
  }

  // c = start + a b, slice by slice of the reduction: a panel's slice of b stays in the first-level cache for all rows,
  // the rows' slice of a in the second level. prepare(k, depth) comes before a slice, finish(j) after a block's last;
  // slice(j, k, depth) is where to read that of b.
  struct Matrices {
    const float* a;  // [k / kWords][rows][kRow], column blocks `a_stride` words apart
    int64_t a_stride;
    const float* b;  // panels [blocks][k][kBlock]; null: made by slice(), not to be prefetched
    int64_t k;       // words of the reduction
    float* c;        // [blocks][rows][kBlock], blocks `c_stride` floats apart; 0: each in the place of the one before
    int64_t c_stride;
    const float* __restrict__ start;  // [blocks][kBlock], null: zeros
    int64_t rows, blocks;
    int64_t columns = int64_t{1} << 62;  // of c that are wanted: what lies beyond them may be left unwritten
  };
  template <class Prepare, class Slice, class Finish>
  static CNV2_INLINE void multiply(const Matrices& m, const Prepare& prepare, const Slice& slice,
                                   const Finish& finish) {
    typename T::Registers registers;
    for (int64_t k = 0; k < m.k; k += kDepth) {
      const int64_t depth = m.k - k < kDepth ? m.k - k : kDepth;
      prepare(k, depth);
      for (int64_t j = 0; j < m.blocks; ++j) {
        typename T::Product p{};
        p.a = m.a + k / kWords * m.a_stride, p.a_stride = m.a_stride;
        p.b = slice(j, k, depth);
        p.k = depth;
        p.c = m.c + j * m.c_stride;
        p.start = k > 0 ? nullptr : m.start != nullptr ? m.start + j * kBlock : kZeros;
        // The next panel's slice comes into the cache meanwhile, some of it with every tile.
        if (m.b != nullptr) {
          p.ahead = m.b + ((j + 1 < m.blocks ? j + 1 : j) * m.k + k) * kBlock;
          p.ahead_lines = depth * kBlock / T::kLine / ((m.rows + kRows - 1) / kRows) + 1;
        }
        const bool narrow = m.columns - j * kBlock <= kVector;
        for (int64_t r = 0, rows = 0; r < m.rows; r += rows) {
          // Tiles of even heights: one of a row or two takes as long as one of four.
          const int64_t left = m.rows - r, tiles = (left + kRows - 1) / kRows;
          rows = narrow && left >= T::kNarrowRows ? T::kNarrowRows : (left + tiles - 1) / tiles;
          p.next = rows < left ? p.c + rows * kBlock : m.c + (j + 1 < m.blocks ? j + 1 : 0) * m.c_stride;
          if (rows > T::kMaxRows) {
            registers.narrow_product(p);
          } else {
            registers.product(p, static_cast<int>(rows));
          }
          p.a += rows * kRow;
          p.c += rows * kBlock;
          p.ahead += p.ahead_lines * T::kLine;
        }
        if (k + depth == m.k) finish(j);
      }
    }
  }
  alignas(64) static constexpr float kZeros[kBlock] = {};
};

}  // namespace
}  // namespace cnv2
