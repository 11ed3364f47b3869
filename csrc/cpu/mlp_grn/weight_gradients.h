// The gradients of mlp_grn's weights, dw1 = dh' u and dw2 = dz' v: sums over the rows of a chunk, whose tiles the
// threads divide. Every entry is summed in an order that follows from the chunk alone.
//
// Floats in blocks are an operand of such a product as they lie. Pairs are not, they follow each other along the rows:
// u and dz, the narrow matrices, are transposed once for a chunk; dh and v become panels slice by slice on their way
// into the cache.
#pragma once

#include "cpu/common/scratch.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/row_pairs.h"
#include "mlp_grn.h"

namespace cnv2 {
namespace {

// A chunk, as the other products of the backward leave it.
struct MlpGrnRows {
  int64_t first, rows;  // of the call
  const float *u, *dz;  // blocked
  const float *dh, *v;  // [blocks(hidden)][rows], rows of kBlock floats or of as many words as a pair of them takes
};

// Of pairs.
template <class V, int kRows, class Op>
struct MlpGrnWeightGradients {
  using Products = RowPairProducts<V, kRows, Op>;
  using Layout = typename Products::Layout;
  static constexpr int kBlock = Layout::kBlock, kVector = Layout::kVector, kWords = Layout::kWords;
  static constexpr int64_t kStride = kBlock;  // from one row of dh or v to the next: the other's lies between

  // Adds the chunk's part, or starts with it.
  static void add(const MlpGrnBackward& p, const MlpGrnRows& x, bool add, const Parallel& parallel) {
    const int64_t hidden = p.shape.hidden, in = p.shape.c_in, out = p.shape.c_out;
    const int64_t panels = Layout::blocks(hidden), blocks = Layout::blocks(x.rows);
    float* u = thread_scratch(ScratchSlot::kTile, blocks * (in + out) * kWords);
    float* dz = u + blocks * in * kWords;
    parallel(0, blocks, grain(kBlock * (in + out) * 4), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        transpose(p.u, x, t, in, u + t * in * kWords);
        transpose(p.dy, x, t, out, dz + t * out * kWords);
      }
    });
    // Two loops in one, so that narrow stages divide evenly: the hidden panels of dw1, then of dw2.
    parallel(0, 2 * panels, grain(x.rows * in * kBlock), [&](int64_t begin, int64_t end) {
      Products::multiply(u, in, x.dh, x.rows * kStride, kStride, x.rows, begin, end < panels ? end : panels,
                         [&](int64_t j, const float* c) {
                           write_transposed(c, in, hidden - j * kBlock, p.dw1 + j * kBlock * in, add);
                         });
      Products::multiply(dz, out, x.v, x.rows * kStride, kStride, x.rows, begin > panels ? begin - panels : 0,
                         end - panels, [&](int64_t j, const float* c) {
                           Products::write(c, out, hidden - j * kBlock, p.dw2 + j * kBlock, hidden, add);
                         });
    });
  }

 private:
  // Block t of the rows.
  static void transpose(const ConstArray& a, const MlpGrnRows& x, int64_t t, int64_t columns, float* out) {
    const int64_t first = t * kBlock, rows = x.rows - first < kBlock ? x.rows - first : kBlock;
    with_dtype(a.dtype, a.data, [&](auto* data) {
      RowPairs<V, Op>::transposed(data + (x.first + first) * columns, rows, columns, out);
    });
  }

  // Up to kBlock columns of the gradient c', as rows.
  static void write_transposed(const float* __restrict__ c,  // [columns][kBlock]
                               int64_t columns, int64_t rows,
                               float* __restrict__ to,  // [rows][columns]
                               bool add) {
    for (int64_t i = 0; i < columns; i += kVector) {
      unroll<0, 2>([&](auto half) CNV2_LAMBDA {
        constexpr int at = half.value * kVector;
        V square[kVector];
        unroll<0, kVector>([&](auto r) CNV2_LAMBDA {
          square[r.value] = i + r.value < columns ? V::load(c + (i + r.value) * kBlock + at) : V::zero();
        });
        cnv2::transpose(square);
        unroll<0, kVector>([&](auto r) CNV2_LAMBDA {
          if (at + r.value < rows)
            Products::store(square[r.value], columns - i, to + (at + r.value) * columns + i, add);
        });
      });
    }
  }
};

// Of floats.
template <class V, int kRows>
struct MlpGrnWeightGradients<V, kRows, PlainFloats<V>> {
  using T = Tiles<V, kRows>;
  using Layout = typename T::Layout;
  static constexpr int kBlock = Layout::kBlock;

  static void add(const MlpGrnBackward& p, const MlpGrnRows& x, bool add, const Parallel& parallel) {
    const int64_t hidden = p.shape.hidden, in = p.shape.c_in, out = p.shape.c_out, rows_of = x.rows;
    const int64_t panels = Layout::blocks(hidden), in_blocks = Layout::blocks(in), out_blocks = Layout::blocks(out);
    // Two loops in one, so that narrow stages divide evenly: the hidden panels of dw1, then of dw2.
    parallel(0, 2 * panels, grain(rows_of * in * kBlock), [&](int64_t begin, int64_t end) {
      each_group(rows_of, begin, end < panels ? end : panels, in, [&](int64_t j, int64_t t, int64_t rows) {
        for (int64_t c = 0; c < in_blocks; ++c) {
          outer(x.dh + (j * rows_of + t) * kBlock, x.u + (c * rows_of + t) * kBlock, rows, hidden - j * kBlock,
                in - c * kBlock, p.dw1 + j * kBlock * in + c * kBlock, in, add || t > 0);
        }
      });
      each_group(rows_of, begin > panels ? begin - panels : 0, end - panels, out,
                 [&](int64_t j, int64_t t, int64_t rows) {
                   for (int64_t o = 0; o < out_blocks; ++o) {
                     outer(x.dz + (o * rows_of + t) * kBlock, x.v + (j * rows_of + t) * kBlock, rows, out - o * kBlock,
                           hidden - j * kBlock, p.dw2 + o * kBlock * hidden + j * kBlock, hidden, add || t > 0);
                   }
                 });
    });
  }

 private:
  static constexpr int64_t kSlice = 128;  // rows at a time: a block of them is 16 KB
  static constexpr int kParts = (kBlock + kRows - 1) / kRows;
  static constexpr int kPart = (kBlock + kParts - 1) / kParts;  // columns of a block that one tile takes

  // Calls body(panel, first row, rows) for hidden panels [begin, end) and all slices of the rows: several panels before
  // the next slice, which then comes from memory once for all of them.
  template <class F>
  static void each_group(int64_t rows, int64_t begin, int64_t end, int64_t columns, const F& body) {
    const int64_t most = kGradientFloats / (columns * kBlock) + 1;
    for (; begin < end; begin += most) {
      const int64_t last = end - begin < most ? end : begin + most;
      for (int64_t t = 0; t < rows; t += kSlice) {
        for (int64_t j = begin; j < last; ++j) body(j, t, rows - t < kSlice ? rows - t : kSlice);
      }
    }
  }

  // c [columns of a][columns of b] (+)= a' b for one block of each.
  static void outer(const float* __restrict__ a,  // [rows][kBlock]
                    const float* __restrict__ b,  // [rows][kBlock]
                    int64_t rows, int64_t a_columns, int64_t b_columns,
                    float* __restrict__ c,  // [a_columns][c_stride]
                    int64_t c_stride, bool add) {
    const int64_t columns = a_columns < kBlock ? a_columns : kBlock;
    for (int64_t i = 0; i < columns; i += kPart) {
      T::outer(
          {a + i, b, rows, c + i * c_stride, c_stride, static_cast<int>(b_columns < kBlock ? b_columns : kBlock), add},
          static_cast<int>(columns - i < kPart ? columns - i : kPart));
    }
  }
};

}  // namespace
}  // namespace cnv2
