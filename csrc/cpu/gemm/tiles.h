// The register tiles of the CPU's matrix products, a template over the vector type and the operands' numbers.
//
// Matrices of activations are "blocked": [column block][row][kBlock], kBlock = 2 vectors. A tile's rows then lie a
// constant distance apart, so that one pointer addresses them all, and what one product writes the next can read as
// either operand. Weights are packed in panels: [column block][reduction index][kBlock]. "Words" are those of
// operands.h: where they are pairs, a row of a block has half as many, and so has a reduction.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/common/unroll.h"
#include "cpu/common/vec.h"
#include "operands.h"

namespace cnv2 {
namespace {

template <class V, class Op>
struct TileLayout {
  static constexpr int kVector = V::width;
  static constexpr int kBlock = 2 * kVector;
  static constexpr int kWords = kBlock / Op::kNumbers;  // of a row of a block
  static constexpr int kRow = kWords * Op::kSpacing;    // from one row of a block to the next
  static constexpr int kLine = 16;                      // floats of a cache line

  static constexpr int64_t blocks(int64_t columns) { return (columns + kBlock - 1) / kBlock; }

  // How many words a panel needs for a reduction over so many numbers.
  static constexpr int64_t words(int64_t numbers) {
    constexpr int64_t kTogether = int64_t{Op::kNumbers} * Op::kWordsTogether;
    return (numbers + kTogether - 1) / kTogether * Op::kWordsTogether;
  }

  // c[i][j] = sum_k a[i][k] b[k][j], in float32, added to `start[j]` or, where that is null, to c[i][j].
  struct Product {
    const float* a;    // blocked, at the tile's first row and the reduction's first column, which begins a block
    int64_t a_stride;  // words from one column block to the next
    const float* b;    // panel [k][kBlock], at the reduction's first row
    int64_t k;         // words of the reduction
    float* c;          // blocked, at the tile's first row
    const float* __restrict__ start;  // [kBlock], null: c itself
    // What is prefetched meanwhile: the next tile of c, and some lines of b's next panel.
    const float *next, *ahead;
    int64_t ahead_lines;
  };
};

// The product on tiles of kRows x 2 vectors in registers: 2 loads and kRows broadcasts for 2 * kRows multiply-adds. A
// block of which only the first vector's columns are wanted is computed in tiles of 2 * kRows x 1 vector instead.
template <class V, int kRows, class Op = PlainFloats<V>>
struct Tiles : TileLayout<V, Op> {
  using Layout = TileLayout<V, Op>;
  using Layout::kBlock, Layout::kLine, Layout::kRow, Layout::kVector, Layout::kWords;
  using typename Layout::Product;
  static constexpr int kMaxRows = kRows, kNarrowRows = 2 * kRows;

  // What a run of products holds: nothing here.
  struct Registers {
    CNV2_INLINE void product(const Product& p, int rows) const {
      static constexpr Table<Product> kTable = products(std::make_integer_sequence<int, kRows>{});
      kTable.run[rows - 1](p);
    }
    // kNarrowRows rows of the block's first vector. The second is not written.
    CNV2_INLINE void narrow_product(const Product& p) const { product_of<kNarrowRows, 1>(p); }
  };

  // c[i][j] (+)= sum_t a[t][i] b[t][j]: the gradient of a weight, i < rows <= kMaxRows, j < columns.
  struct Outer {
    const float* __restrict__ a;  // [t][kBlock], at its first column wanted
    const float* __restrict__ b;  // [t][kBlock]
    int64_t t;
    float* __restrict__ c;  // [rows][c_stride]
    int64_t c_stride;
    int columns;
    bool add;
  };

  static CNV2_INLINE void outer(const Outer& p, int rows) {
    static constexpr Table<Outer> kTable = outers(std::make_integer_sequence<int, kRows>{});
    kTable.run[rows - 1](p);
  }

 private:
  template <int kCount, int kVectors = 2>
  static __attribute__((noinline)) void product_of(const Product& p) {
    // From zero, so that no sum is longer than a slice of the reduction: what was summed before is added at the end.
    V sum[kCount][kVectors];
    each<kCount, kVectors>([&](auto i, auto j) CNV2_LAMBDA { sum[i.value][j.value] = V::zero(); });
    const float *a = p.a, *b = p.b;
    const int64_t blocks = (p.k + kWords - 1) / kWords;
    const int64_t next_lines = kCount * kBlock / kLine / blocks + 1,
                  ahead_lines = (p.ahead_lines + blocks - 1) / blocks;
    const float *next = p.next, *ahead = p.ahead;
    for (int64_t k = 0; k < p.k; k += kWords, a += p.a_stride) {
      for (int64_t i = 0; i < next_lines; ++i, next += kLine) __builtin_prefetch(next, 1, 3);
      for (int64_t i = 0; i < ahead_lines; ++i, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
      const int here = static_cast<int>(p.k - k < kWords ? p.k - k : kWords);
      const float* column = a;
      for (int i = 0; i < here; ++i, ++column, b += kBlock) multiply_add<kRow>(column, b, sum);
    }
    each<kCount, kVectors>([&](auto i, auto j) CNV2_LAMBDA {
      float* c = p.c + i.value * kBlock + j.value * kVector;
      V::add(V::load(p.start != nullptr ? p.start + j.value * kVector : c), sum[i.value][j.value]).store(c);
    });
  }

  template <int kCount>
  static __attribute__((noinline)) void outer_of(const Outer& p) {
    V sum[kCount][2];
    // Long before they are needed: the rows of c are far apart and often out of the second level.
    each<kCount>([&](auto i, auto j) CNV2_LAMBDA {
      __builtin_prefetch(p.c + i.value * p.c_stride + j.value * kVector, 1, 3);
      sum[i.value][j.value] = V::zero();
    });
    const float *a = p.a, *b = p.b;
    for (int64_t t = 0; t < p.t; ++t, a += kBlock, b += kBlock) multiply_add<1>(a, b, sum);
    // A whole block without a branch in it.
    const auto whole = [&](const auto& value) CNV2_LAMBDA {
      each<kCount>([&](auto i, auto j) CNV2_LAMBDA {
        float* c = p.c + i.value * p.c_stride + j.value * kVector;
        value(c, sum[i.value][j.value]).store(c);
      });
    };
    if (p.columns == kBlock && p.add) return whole([](float* c, V v) CNV2_LAMBDA { return V::add(V::load(c), v); });
    if (p.columns == kBlock) return whole([](float*, V v) CNV2_LAMBDA { return v; });
    each<kCount>([&](auto i, auto j) CNV2_LAMBDA {
      const int left = p.columns - j.value * kVector, lanes = left < kVector ? left : kVector;
      if (lanes <= 0) return;
      float* c = p.c + i.value * p.c_stride + j.value * kVector;
      const V v = sum[i.value][j.value];
      (p.add ? V::add(V::load(c, lanes), v) : v).store(c, lanes);
    });
  }

  // sum[i] += a[i * kStride] b, b the first vectors of [kBlock].
  template <int kStride, int kCount, int kVectors>
  static CNV2_INLINE void multiply_add(const float* __restrict__ a, const float* __restrict__ b,
                                       V (&sum)[kCount][kVectors]) {
    V columns[kVectors];
    unroll<0, kVectors>([&](auto j) CNV2_LAMBDA { columns[j.value] = V::load(b + j.value * kVector); });
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
      const V x = V::set(a[i.value * kStride]);
      unroll<0, kVectors>(
          [&](auto j) CNV2_LAMBDA { sum[i.value][j.value] = Op::fma(x, columns[j.value], sum[i.value][j.value]); });
    });
  }

  template <int kCount, int kVectors = 2, class F>
  static CNV2_INLINE void each(const F& body) {
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA { unroll<0, kVectors>([&](auto j) CNV2_LAMBDA { body(i, j); }); });
  }

  template <class P>
  struct Table {
    void (*run[kRows])(const P&);
  };
  template <int... kCounts>
  static constexpr Table<Product> products(std::integer_sequence<int, kCounts...>) {
    return {{product_of<kCounts + 1>...}};
  }
  template <int... kCounts>
  static constexpr Table<Outer> outers(std::integer_sequence<int, kCounts...>) {
    return {{outer_of<kCounts + 1>...}};
  }
};

}  // namespace
}  // namespace cnv2
