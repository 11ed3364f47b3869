// Operands in pairs for products a' b that sum over the rows of activations: a word holds a number of one row and that
// of the next in the same column. a becomes blocked rows, one for each of its columns; b becomes panels.
#pragma once

#include "pack.h"

namespace cnv2 {
namespace {

template <class V, class Op>
struct RowPairs {
  using Layout = TileLayout<V, Op>;
  static constexpr int kVector = Layout::kVector, kBlock = Layout::kBlock, kWords = Layout::kWords;
  static_assert(kWords == kVector, "a vector holds the words of a row");

  // The block of a' that sums over up to kBlock rows of a; zeros complete it.
  template <class T>
  static void transposed(const T* __restrict__ a,  // [rows][columns]
                         int64_t rows, int64_t columns,
                         float* __restrict__ out) {  // [columns][kWords]
    for (int64_t c = 0; c < columns; c += kVector) {
      const auto row = [&](int64_t r) CNV2_LAMBDA {
        return r < rows ? Pack<V>::load(a + r * columns + c, columns - c) : V::zero();
      };
      V square[kVector];
      unroll<0, kVector>([&](auto i)
                             CNV2_LAMBDA { square[i.value] = Op::pair(row(2 * i.value), row(2 * i.value + 1)); });
      transpose(square);
      unroll<0, kVector>([&](auto i) CNV2_LAMBDA {
        if (c + i.value < columns) square[i.value].store(out + (c + i.value) * kWords);
      });
    }
  }

  // `words` rows of the panel that is a block of b, from `rows` rows of it; zeros complete them.
  static void panel(const float* __restrict__ b,  // rows of kWords words, `stride` words apart
                    int64_t stride, int64_t rows, int64_t words,
                    float* __restrict__ out) {  // [words][kBlock]
    for (int64_t i = 0; i < words; ++i, b += 2 * stride, out += kBlock) {
      V low, high;
      Op::pair_rows(2 * i < rows ? V::load(b) : V::zero(), 2 * i + 1 < rows ? V::load(b + stride) : V::zero(), low,
                    high);
      low.store(out);
      high.store(out + kVector);
    }
  }
};

}  // namespace
}  // namespace cnv2
