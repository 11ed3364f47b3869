// The product dz' B of patch_conv's backward for some rows, in the form that its operands want: floats in blocks are an
// operand as they lie, slice by slice; pairs follow each other along the rows (gemm/row_pairs.h). The threads divide
// `units` of the result.
#pragma once

#include <algorithm>

#include "cpu/common/scratch.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/row_pairs.h"

namespace cnv2 {
namespace {

constexpr int64_t kPatchSlice = 128;  // rows of a sum in registers: a block of them is 16 KB as floats

// Of pairs. A unit is a block of the depth. Slice t of B lies behind the slice before, in each of its blocks.
template <class V, int kRows, class Op>
struct PatchWeightGradient {
  using Products = RowPairProducts<V, kRows, Op>;
  using Layout = typename Products::Layout;
  static constexpr int kBlock = Layout::kBlock, kWords = Layout::kWords;
  static_assert(kPatchSlice % kBlock == 0, "a slice is whole blocks of rows");

  const int64_t c_out, depth;
  const int64_t slices;  // of a chunk: what both operands have room for

  int64_t units() const { return Layout::blocks(depth); }
  int64_t dz_floats() const { return kPatchSlice * c_out * kWords / kBlock; }  // of a slice
  int64_t blocks_floats() const { return units() * kPatchSlice * kWords; }
  int64_t blocks_at(int64_t t) const { return t * kPatchSlice * kWords; }
  int64_t blocks_height() const { return slices * kPatchSlice; }

  void pack_dz(const ConstArray& dz, int64_t first, int64_t rows, float* out) const {
    with_dtype(dz.dtype, dz.data, [&](auto* data) {
      for (int64_t r = 0; r < rows; r += kBlock, out += c_out * kWords)
        RowPairs<V, Op>::transposed(data + (first + r) * c_out, std::min<int64_t>(rows - r, kBlock), c_out, out);
    });
  }

  // out [c_out][depth] (+)= dz' B in units [begin, end), over `rows` rows from slice t on.
  void add(const float* dz, const float* blocks, int64_t t, int64_t rows, int64_t begin, int64_t end, float* out,
           bool add) const {
    Products::multiply(dz + t * dz_floats(), c_out, blocks + blocks_at(t), blocks_height() * kWords, kWords, rows,
                       begin, end, [&](int64_t d, const float* c) {
                         Products::write(c, c_out, depth - d * kBlock, out + d * kBlock, depth, add);
                       });
  }
};

// Of floats. A unit is a block of the result's channels.
template <class V, int kRows>
struct PatchWeightGradient<V, kRows, PlainFloats<V>> {
  using G = Gemm<V, kRows>;
  using T = typename G::T;
  static constexpr int kBlock = G::kBlock;

  const int64_t c_out, depth;
  const int64_t slices;

  int64_t units() const { return T::blocks(c_out); }
  int64_t dz_floats() const { return units() * kPatchSlice * kBlock; }
  int64_t blocks_floats() const { return T::blocks(depth) * kPatchSlice * kBlock; }
  int64_t blocks_at(int64_t t) const { return t * blocks_floats(); }
  int64_t blocks_height() const { return kPatchSlice; }

  void pack_dz(const ConstArray& dz, int64_t first, int64_t rows, float* out) const {
    G::pack_rows(dz, first, rows, c_out, out, kPatchSlice);
  }

  // Some units before the next slice, which then comes from memory once for all of them.
  void add(const float* dz, const float* blocks, int64_t t, int64_t rows, int64_t begin, int64_t end, float* out,
           bool add) const {
    const int64_t most = kGradientFloats / (depth * kBlock) + 1;
    for (; begin < end; begin += most) {
      for (int64_t r = 0; r < rows; r += kPatchSlice) {
        const int64_t here = t + r / kPatchSlice;
        for (int64_t o = begin; o < std::min(begin + most, end); ++o) {
          panel(dz + here * dz_floats() + o * kPatchSlice * kBlock, blocks + blocks_at(here),
                std::min(rows - r, kPatchSlice), c_out - o * kBlock, out + o * kBlock * depth, add || r > 0);
        }
      }
    }
  }

 private:
  static constexpr int kParts = (kBlock + kRows - 1) / kRows;
  static constexpr int kPart = (kBlock + kParts - 1) / kParts;  // columns of a block that one tile takes

  // out [columns of a][depth] (+)= a' b, for one block of a and all of b.
  void panel(const float* __restrict__ a,  // [kPatchSlice][kBlock]
             const float* __restrict__ b,  // [blocks(depth)][kPatchSlice][kBlock]
             int64_t rows, int64_t a_columns, float* __restrict__ out, bool add) const {
    const int64_t columns = std::min<int64_t>(a_columns, kBlock);
    for (int64_t d = 0; d < T::blocks(depth); ++d) {
      const int width = static_cast<int>(std::min<int64_t>(depth - d * kBlock, kBlock));
      for (int64_t i = 0; i < columns; i += kPart) {
        T::outer({a + i, b + d * kPatchSlice * kBlock, rows, out + i * depth + d * kBlock, depth, width, add},
                 static_cast<int>(std::min<int64_t>(columns - i, kPart)));
      }
    }
  }
};

}  // namespace
}  // namespace cnv2
