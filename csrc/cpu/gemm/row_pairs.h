// Operands in pairs for products a' b that sum over the rows of activations: a word holds a number of one row and that
// of the next in the same column. a becomes blocked rows, one for each of its columns; b becomes panels.
#pragma once

#include "cpu/common/scratch.h"
#include "gemm.h"

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

// The products themselves: gradients of weights, sums over the rows of a call.
template <class V, int kRows, class Op>
struct RowPairProducts {
  using G = Gemm<V, kRows, Op>;
  using Layout = typename G::T::Layout;
  static constexpr int kBlock = Layout::kBlock, kVector = Layout::kVector, kWords = Layout::kWords;

  // Calls finish(j, c) with c [columns][kBlock] = a b for panels j of [begin, end): several before the next slice of
  // the rows, which then comes from memory once for all of them.
  template <class F>
  static void multiply(const float* a,  // [blocks(rows)][columns][kWords]
                       int64_t columns,
                       const float* b,  // [panels][rows][kWords], panels `b_stride` floats apart, rows `stride`
                       int64_t b_stride, int64_t stride, int64_t rows, int64_t begin, int64_t end, const F& finish) {
    const int64_t most = kGradientFloats / (columns * kBlock) + 1;
    for (; begin < end; begin += most) {
      const int64_t panels = end - begin < most ? end - begin : most;
      float* panel = thread_scratch(ScratchSlot::kOperand, (G::kDepth + panels * columns) * kBlock);
      float* c = panel + G::kDepth * kBlock;
      G::multiply(
          {a, columns * kWords, nullptr, Layout::words(rows), c, columns * kBlock, nullptr, columns, panels},
          [](int64_t, int64_t) {},
          [&](int64_t j, int64_t k, int64_t depth) {
            const float* from = b + (begin + j) * b_stride + 2 * k * stride;
            RowPairs<V, Op>::panel(from, stride, rows - 2 * k, depth, panel);
            return panel;
          },
          [&](int64_t j) { finish(begin + j, c + j * columns * kBlock); });
    }
  }

  // `lanes` values to a gradient, at most a vector's.
  static CNV2_INLINE void store(V value, int64_t lanes, float* to, bool add) {
    if (lanes <= 0) return;
    const V sum = add ? V::add(Pack<V>::load(to, lanes), value) : value;
    lanes >= kVector ? sum.store(to) : sum.store(to, static_cast<int>(lanes));
  }

  // Up to kBlock columns of a gradient from `to` on.
  static void write(const float* __restrict__ c,  // [rows][kBlock]
                    int64_t rows, int64_t columns,
                    float* __restrict__ to,  // [rows][stride]
                    int64_t stride, bool add) {
    for (int64_t r = 0; r < rows; ++r, c += kBlock, to += stride) {
      store(V::load(c), columns, to, add);
      store(V::load(c + kVector), columns - kVector, to + kVector, add);
    }
  }
};

}  // namespace
}  // namespace cnv2
