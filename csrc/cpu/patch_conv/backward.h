// The one source of patch_conv's gradients, a template over the vector type. All names have internal linkage.
//
// With dz the gradient of the product's rows and B the blocks of pixels: dweight = dz' B, dbias = the sums of dz, and
// the blocks' gradient dz weight goes back to their pixels. Every sum has an order that follows from the shapes alone.
#pragma once

#include <algorithm>
#include <cstring>

#include "blocks.h"
#include "cpu/common/rows.h"

namespace cnv2 {
namespace {

template <class V, int kRows>
struct PatchConvBackward : PatchBlocks<V, kRows> {
  using B = PatchBlocks<V, kRows>;
  using G = typename B::G;
  using B::kBlock, B::kRun, B::kVector;
  using typename B::Norms;
  using typename G::T;

  // ---- dweight, dbias ---------------------------------------------------------------------------------------------

  // Chunk by chunk: both operands in blocked form, slice by slice; then the products, whose tiles the threads divide.
  // Where there are few tiles, the slices are dealt to several partial sums ("slabs").
  static void parameters(const PatchParameterGradients& p, const Parallel& parallel) {
    const PatchConvForward& x = p.of;
    const Sizes s(x);
    double* dbias = reinterpret_cast<double*>(thread_scratch(ScratchSlot::kGroups, 2 * x.c_out));
    for (int64_t o = 0; o < x.c_out; ++o) dbias[o] = 0;
    if (x.rows == 0) std::memset(p.dweight, 0, x.c_out * s.depth * sizeof(float));
    const int64_t cb = T::blocks(x.c_in), size = x.c_out * s.depth;
    float* norms = thread_scratch(ScratchSlot::kVectors, 2 * cb * kBlock);
    const Norms before = B::norm_of(x.before, x.c_in, norms, cb);
    float* partial = thread_scratch(ScratchSlot::kWeights, (s.slabs - 1) * size);
    float* a =
        thread_scratch(ScratchSlot::kChunk, s.slices * (s.ob + s.db) * kSlice * kBlock + s.slices * s.ob * kBlock);
    float *b = a + s.slices * s.ob * kSlice * kBlock, *sums = b + s.slices * s.db * kSlice * kBlock;
    for (int64_t first = 0; first < x.rows; first += s.slices * kSlice) {
      const int64_t rows = x.rows - first < s.slices * kSlice ? x.rows - first : s.slices * kSlice;
      const int64_t slices = (rows + kSlice - 1) / kSlice;
      const auto rows_of = [=](int64_t t) { return rows - t * kSlice < kSlice ? rows - t * kSlice : kSlice; };
      parallel(0, slices, grain(kSlice * (8 * s.depth + 4 * x.c_out)), [&](int64_t begin, int64_t end) {
        float* gathered = thread_scratch(ScratchSlot::kOperand, B::gathered_floats(s.depth));
        for (int64_t t = begin; t < end; ++t) {
          float* dz = a + t * s.ob * kSlice * kBlock;
          B::operand(x, before, first + t * kSlice, rows_of(t), gathered, b + t * s.db * kSlice * kBlock, kSlice);
          G::pack_rows(p.dz, first + t * kSlice, rows_of(t), x.c_out, dz, kSlice);
          for (int64_t o = 0; o < s.ob; ++o)
            column_sums(dz + o * kSlice * kBlock, rows_of(t), sums + (t * s.ob + o) * kBlock);
        }
      });
      for (int64_t t = 0; t < slices; ++t) {
        for (int64_t o = 0; o < x.c_out; ++o) dbias[o] += sums[t * s.ob * kBlock + o];
      }
      parallel(0, s.slabs * s.ob, grain(rows * s.depth * kBlock / s.slabs), [&](int64_t begin, int64_t end) {
        while (begin < end) {
          const int64_t slab = begin / s.ob, o0 = begin % s.ob, most = kGroupFloats / (s.depth * kBlock) + 1;
          const int64_t o1 = std::min({o0 + most, s.ob, o0 + end - begin}), first_slice = slab * slices / s.slabs;
          float* out = slab == 0 ? p.dweight : partial + (slab - 1) * size;
          for (int64_t t = first_slice; t < (slab + 1) * slices / s.slabs; ++t) {
            for (int64_t o = o0; o < o1; ++o) {
              panel(a + (t * s.ob + o) * kSlice * kBlock, b + t * s.db * kSlice * kBlock, rows_of(t),
                    x.c_out - o * kBlock, s, out + o * kBlock * s.depth, first > 0 || t > first_slice);
            }
          }
          begin += o1 - o0;
        }
      });
    }
    parallel(0, size, grain(s.slabs), [&](int64_t begin, int64_t end) {
      for (int64_t slab = 1; slab < s.slabs; ++slab) {
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
    float* weight = thread_scratch(ScratchSlot::kWeights, db * x.c_out * kBlock);
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
  static constexpr int64_t kSlice = 128;              // rows of a sum in registers: a block of them is 16 KB
  static constexpr int64_t kChunkFloats = 2 << 20;    // of both operands at once
  static constexpr int64_t kPartialFloats = 1 << 20;  // of partial sums
  static constexpr int64_t kGroupFloats = 96 << 10;   // of the gradient that stays in the cache from slice to slice
  static constexpr int64_t kUnits = 64;               // about as many, for any number of threads up to that
  static constexpr int kParts = (kBlock + kRows - 1) / kRows;
  static constexpr int kPart = (kBlock + kParts - 1) / kParts;  // columns of a block that one tile takes

  struct Sizes {
    int64_t depth, ob, db;  // blocks of result channels and of the depth
    int64_t slices, slabs;  // of a chunk
    explicit Sizes(const PatchConvForward& x)
        : depth(x.k * x.k * x.c_in), ob(T::blocks(x.c_out)), db(T::blocks(depth)) {
      const int64_t all = std::max<int64_t>((x.rows + kSlice - 1) / kSlice, 1);
      slices = std::min(all, kChunkFloats / ((ob + db) * kSlice * kBlock) + 1);
      slabs = std::min({(kUnits + ob - 1) / ob, slices, kPartialFloats / (x.c_out * depth) + 1});
    }
  };

  static void column_sums(const float* __restrict__ x,  // [rows][kBlock]
                          int64_t rows,
                          float* __restrict__ out) {  // [kBlock]
    V sum0 = V::zero(), sum1 = V::zero();
    for (int64_t r = 0; r < rows; ++r, x += kBlock) {
      sum0 = V::add(sum0, V::load(x));
      sum1 = V::add(sum1, V::load(x + kVector));
    }
    sum0.store(out);
    sum1.store(out + kVector);
  }

  // out [columns of a][depth] (+)= a' b, for one block of a and all of b.
  static void panel(const float* __restrict__ a,  // [kSlice][kBlock]
                    const float* __restrict__ b,  // [s.db][kSlice][kBlock]
                    int64_t rows, int64_t a_columns, const Sizes& s, float* __restrict__ out, bool add) {
    const int64_t columns = std::min<int64_t>(a_columns, kBlock);
    for (int64_t d = 0; d < s.db; ++d) {
      const int width = static_cast<int>(std::min<int64_t>(s.depth - d * kBlock, kBlock));
      for (int64_t i = 0; i < columns; i += kPart) {
        T::outer({a + i, b + d * kSlice * kBlock, rows, out + i * s.depth + d * kBlock, s.depth, width, add},
                 static_cast<int>(std::min<int64_t>(columns - i, kPart)));
      }
    }
  }

  // Panels [d0, d1) of the blocks' gradient, of the rows from `first` on.
  static void product(const PatchInputGradient& p, const float* weight, int64_t first, int64_t d0, int64_t d1) {
    const PatchConvForward& x = p.of;
    const int64_t rows = std::min(x.rows - first, kRun), ob = T::blocks(x.c_out), depth = x.k * x.k * x.c_in;
    const int64_t line_floats = (d1 - d0 + 1) * kBlock;
    float* line = thread_scratch(ScratchSlot::kOperand, line_floats + (ob + d1 - d0) * rows * kBlock);
    float *dz = line + line_floats, *y = dz + ob * rows * kBlock;
    G::pack_rows(p.dz, first, rows, x.c_out, dz, rows);
    const float* w = weight + d0 * x.c_out * kBlock;
    G::multiply(
        {dz, rows * kBlock, w, x.c_out, y, rows * kBlock, nullptr, rows, d1 - d0}, [](int64_t, int64_t) {},
        [&](int64_t d, int64_t k, int64_t) { return w + (d * x.c_out + k) * kBlock; }, [](int64_t) {});
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
