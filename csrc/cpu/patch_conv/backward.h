// The one source of patch_conv's gradients, a template over the vector type and the products' operands. All names have
// internal linkage.
//
// With dz the gradient of the product's rows and B the blocks of pixels: dweight = dz' B, dbias = the sums of dz, and
// the blocks' gradient dz weight goes back to their pixels. Every sum has an order that follows from the shapes alone.
#pragma once

#include <algorithm>
#include <cstring>

#include "blocks.h"
#include "cpu/common/rows.h"
#include "weight_gradient.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op = PlainFloats<V>>
struct PatchConvBackward : PatchBlocks<V, kRows, Op> {
  using B = PatchBlocks<V, kRows, Op>;
  using G = typename B::G;
  using B::kBlock, B::kRun, B::kVector, B::kWords;
  using typename B::Norms;
  using typename G::T;

  // ---- dweight, dbias ---------------------------------------------------------------------------------------------

  // Chunk by chunk: both operands in the product's form, slice by slice; then the product, whose units the threads
  // divide. Where there are few units, the slices are dealt to several partial sums ("slabs").
  static void parameters(const PatchParameterGradients& p, const Parallel& parallel) {
    const PatchConvForward& x = p.of;
    const int64_t depth = x.k * x.k * x.c_in, cb = T::blocks(x.c_in), ob = T::blocks(x.c_out), size = x.c_out * depth;
    const Gradient gradient{x.c_out, depth, slices_of(x)};
    const int64_t units = gradient.units();
    const int64_t slabs = std::min({(kUnits + units - 1) / units, gradient.slices, kPartialFloats / size + 1});
    double* dbias = reinterpret_cast<double*>(thread_scratch(ScratchSlot::kGroups, 2 * x.c_out));
    for (int64_t o = 0; o < x.c_out; ++o) dbias[o] = 0;
    if (x.rows == 0) std::memset(p.dweight, 0, size * sizeof(float));
    float* norms = thread_scratch(ScratchSlot::kVectors, 2 * cb * kBlock);
    const Norms before = B::norm_of(x.before, x.c_in, norms, cb);
    float* partial = thread_scratch(ScratchSlot::kWeights, (slabs - 1) * size);
    const int64_t dz_floats = gradient.slices * gradient.dz_floats();
    float* dz =
        thread_scratch(ScratchSlot::kChunk, dz_floats + gradient.slices * (gradient.blocks_floats() + ob * kBlock));
    float *blocks = dz + dz_floats, *sums = blocks + gradient.slices * gradient.blocks_floats();
    for (int64_t first = 0; first < x.rows; first += gradient.slices * kSlice) {
      const int64_t rows = std::min(x.rows - first, gradient.slices * kSlice), slices = (rows + kSlice - 1) / kSlice;
      parallel(0, slices, grain(kSlice * (8 * depth + 4 * x.c_out)), [&](int64_t begin, int64_t end) {
        float* gathered = thread_scratch(ScratchSlot::kOperand, B::gathered_floats(depth));
        for (int64_t t = begin; t < end; ++t) {
          const int64_t here = std::min(rows - t * kSlice, kSlice), at = first + t * kSlice;
          B::operand(x, before, at, here, gathered, blocks + gradient.blocks_at(t), gradient.blocks_height());
          gradient.pack_dz(p.dz, at, here, dz + t * gradient.dz_floats());
          column_sums(p.dz, at, here, x.c_out, sums + t * ob * kBlock);
        }
      });
      for (int64_t t = 0; t < slices; ++t) {
        for (int64_t o = 0; o < x.c_out; ++o) dbias[o] += sums[t * ob * kBlock + o];
      }
      parallel(0, slabs * units, grain(rows * size / (slabs * units)), [&](int64_t begin, int64_t end) {
        while (begin < end) {
          const int64_t slab = begin / units, unit = begin % units, last = std::min(units, unit + end - begin);
          const int64_t t = slab * slices / slabs, next = (slab + 1) * slices / slabs;
          float* out = slab == 0 ? p.dweight : partial + (slab - 1) * size;
          if (next > t) {
            gradient.add(dz, blocks, t, std::min(rows, next * kSlice) - t * kSlice, unit, last, out, first > 0);
          }
          begin += last - unit;
        }
      });
    }
    parallel(0, size, grain(slabs), [&](int64_t begin, int64_t end) {
      for (int64_t slab = 1; slab < slabs; ++slab) {
        const float* from = partial + (slab - 1) * size;
        for (int64_t i = begin; i < end; ++i) p.dweight[i] += from[i];
      }
    });
    for (int64_t o = 0; o < x.c_out; ++o) p.dbias[o] = static_cast<float>(dbias[o]);
  }

  // ---- dx ---------------------------------------------------------------------------------------------------------

  static void input(const PatchInputGradient& p, const Parallel& parallel) {
    const PatchConvForward& x = p.of;
    const int64_t depth = x.k * x.k * x.c_in, db = T::blocks(depth);
    float* weight = thread_scratch(ScratchSlot::kWeights, db * T::words(x.c_out) * kBlock);
    G::pack_panels(p.weight, x.c_out, depth, weight, parallel);
    const int64_t bytes = x.x.dtype == DType::kFloat32 ? 4 : 2;
    if (!p.covers) std::memset(p.dx, 0, p.pixels * x.c_in * bytes);
    const int64_t runs = (x.rows + kRun - 1) / kRun;
    if (runs >= parallel.threads) {
      parallel(0, runs, grain(kRun * depth * x.c_out), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) product(p, weight, r * kRun, 0, db);
      });
    } else {
      parallel(0, db, grain(x.rows * x.c_out * kBlock), [&](int64_t begin, int64_t end) {
        for (int64_t r = 0; r < runs; ++r) product(p, weight, r * kRun, begin, end);
      });
    }
  }

 private:
  using Gradient = PatchWeightGradient<V, kRows, Op>;
  static constexpr int64_t kSlice = kPatchSlice;
  static constexpr int64_t kChunkFloats = 2 << 20;    // of both operands at once, as floats
  static constexpr int64_t kPartialFloats = 1 << 20;  // of partial sums
  static constexpr int64_t kUnits = 64;               // about as many, for any number of threads up to that

  // Of a chunk.
  static int64_t slices_of(const PatchConvForward& x) {
    const int64_t all = std::max<int64_t>((x.rows + kSlice - 1) / kSlice, 1);
    const int64_t blocks = T::blocks(x.c_out) + T::blocks(x.k * x.k * x.c_in);
    return std::min(all, kChunkFloats / (blocks * kSlice * kBlock) + 1);
  }

  // The sums of `rows` rows of dz.
  static void column_sums(const ConstArray& dz, int64_t first, int64_t rows, int64_t c_out,
                          float* out) {  // [blocks(c_out)][kBlock]
    with_dtype(dz.dtype, dz.data, [&](auto* data) {
      data += first * c_out;
      for (int64_t o = 0; o < c_out; o += kBlock) Pack<V>::column_sums(data + o, rows, c_out, c_out - o, out + o);
    });
  }

  // Panels [d0, d1) of the blocks' gradient, of the rows from `first` on.
  static void product(const PatchInputGradient& p, const float* weight, int64_t first, int64_t d0, int64_t d1) {
    const PatchConvForward& x = p.of;
    const int64_t rows = std::min(x.rows - first, kRun), depth = x.k * x.k * x.c_in, words = T::words(x.c_out);
    const int64_t line_floats = (d1 - d0 + 1) * kBlock, dz_floats = T::blocks(x.c_out) * rows * kWords;
    float* line = thread_scratch(ScratchSlot::kOperand, line_floats + dz_floats + (d1 - d0) * rows * kBlock);
    float *dz = line + line_floats, *y = dz + dz_floats;
    G::pack_rows(p.dz, first, rows, x.c_out, dz, rows);
    const float* w = weight + d0 * words * kBlock;
    G::multiply(
        {dz, rows * kWords, w, words, y, rows * kBlock, nullptr, rows, d1 - d0}, [](int64_t, int64_t) {},
        [&](int64_t d, int64_t k, int64_t) { return w + (d * words + k) * kBlock; }, [](int64_t) {});
    const int64_t begin = d0 * kBlock, end = std::min(d1 * kBlock, depth);
    with_dtype(x.x.dtype, p.dx, [&](auto* dx) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t d = 0; d < d1 - d0; ++d)
          std::memcpy(line + d * kBlock, y + (d * rows + r) * kBlock, kBlock * sizeof(float));
        for (int64_t i = begin / x.c_in; i * x.c_in < end; ++i) {
          const int64_t pixel = B::pixel_of(x, first + r, i), from = std::max(i * x.c_in, begin);
          const int64_t count = std::min((i + 1) * x.c_in, end) - from;
          if (pixel >= 0) B::copy(line + from - begin, count, dx + pixel * x.c_in + from - i * x.c_in);
        }
      }
    });
  }
};

}  // namespace
}  // namespace cnv2
