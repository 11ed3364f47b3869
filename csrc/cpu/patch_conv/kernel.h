// The one source of patch_conv's forward, a template over the vector type and the product's operands; each
// instruction set's .cpp includes it with its own flags. All names have internal linkage.
#pragma once

#include "blocks.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op = PlainFloats<V>>
struct PatchConvKernel : PatchBlocks<V, kRows, Op> {
  using B = PatchBlocks<V, kRows, Op>;
  using G = typename B::G;
  using B::kBlock, B::kRun, B::kVector, B::kWords;
  using typename B::Norms;
  using typename G::T;

  static int64_t packed_floats(const PatchWeight& w) { return T::blocks(w.c_out) * (T::words(w.depth()) + 1) * kBlock; }

  // Panels of the matrix [k * k * c_in, c_out], its rows in the order (ky, kx, channel); then the bias.
  static void pack(const PatchWeight& w, float* packed, const Parallel& parallel) {
    const int64_t blocks = T::blocks(w.c_out), depth = w.depth(), words = T::words(depth);
    parallel(0, blocks, grain(depth * kBlock * 16), [&](int64_t begin, int64_t end) {
      with_dtype(w.data.dtype, w.data.data, [&](auto* data) {
        for (int64_t j = begin; j < end; ++j) {
          float* to = packed + j * words * kBlock;
          if constexpr (Op::kNumbers == 1) {
            panel(w, data, j * kBlock, to);
          } else {
            float* plain = thread_scratch(ScratchSlot::kOperand, depth * kBlock);
            panel(w, data, j * kBlock, plain);
            Pack<V, Op>::panel(plain, depth, kBlock, 0, to);
          }
        }
      });
    });
    float* start = packed + blocks * words * kBlock;
    if (w.bias.data != nullptr) {
      G::pack_vector(w.bias, w.c_out, start);
    } else {
      std::memset(start, 0, blocks * kBlock * sizeof(float));
    }
  }

  static void run(const PatchConvForward& p, const Parallel& parallel) {
    if (p.rows == 0) return;
    const int64_t cb = T::blocks(p.c_in), ob = T::blocks(p.c_out);
    float* norms = thread_scratch(ScratchSlot::kVectors, 2 * (cb + ob) * kBlock);
    const Norms before = B::norm_of(p.before, p.c_in, norms, cb),
                after = B::norm_of(p.after, p.c_out, norms + 2 * cb * kBlock, ob);
    const int64_t runs = (p.rows + kRun - 1) / kRun, depth = p.k * p.k * p.c_in;
    if (runs >= parallel.threads || ob == 1 || after.weight != nullptr) {
      // Runs of few rows, so that all threads have some.
      const int64_t even = (p.rows + parallel.threads - 1) / parallel.threads;
      const int64_t rows = even < kRun ? (even + kRows - 1) / kRows * kRows : kRun;
      parallel(0, (p.rows + rows - 1) / rows, grain(rows * depth * p.c_out), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          product(p, before, after, r * rows, p.rows - r * rows < rows ? p.rows - r * rows : rows, 0, ob);
        }
      });
    } else {
      parallel(0, ob, grain(p.rows * depth * kBlock), [&](int64_t begin, int64_t end) {
        for (int64_t r = 0; r < p.rows; r += kRun) {
          product(p, before, after, r, p.rows - r < kRun ? p.rows - r : kRun, begin, end);
        }
      });
    }
  }

 private:
  template <class S>
  static void panel(const PatchWeight& w, const S* __restrict__ data, int64_t first,
                    float* __restrict__ out) {  // [k * k * c_in][kBlock]
    const int64_t here = w.c_out - first < kBlock ? w.c_out - first : kBlock;
    for (int64_t ky = 0; ky < w.k; ++ky) {
      for (int64_t kx = 0; kx < w.k; ++kx) {
        const S* tap = data + ky * w.ky_stride + kx * w.kx_stride + first * w.c_out_stride;
        for (int64_t c = 0; c < w.c_in; ++c, tap += w.c_in_stride, out += kBlock) {
          for (int64_t o = 0; o < here; ++o) out[o] = to_float(tap[o * w.c_out_stride]);
          for (int64_t o = here; o < kBlock; ++o) out[o] = 0.f;
        }
      }
    }
  }

  // Output panels [o0, o1) of rows [first, first + rows).
  static void product(const PatchConvForward& p, const Norms& before, const Norms& after, int64_t first, int64_t rows,
                      int64_t o0, int64_t o1) {
    const int64_t depth = p.k * p.k * p.c_in, words = T::words(depth), a_floats = T::blocks(depth) * rows * kWords;
    float* memory =
        thread_scratch(ScratchSlot::kOperand, B::gathered_floats(depth) + a_floats + (o1 - o0) * rows * kBlock);
    float *a = memory + B::gathered_floats(depth), *y = a + a_floats;
    B::operand(p, before, first, rows, memory, a, rows);
    const float *w = p.packed + o0 * words * kBlock, *bias = p.packed + T::blocks(p.c_out) * words * kBlock;
    G::multiply(
        {a, rows * kWords, w, words, y, rows * kBlock, bias + o0 * kBlock, rows, o1 - o0, p.c_out - o0 * kBlock},
        [](int64_t, int64_t) {}, [&](int64_t o, int64_t k, int64_t) { return w + (o * words + k) * kBlock; },
        [](int64_t) {});
    with_dtype(p.x.dtype, p.y, [&](auto* out) {
      for (int64_t r = 0; r < rows; ++r) {
        auto* to = out + (first + r) * p.c_out + o0 * kBlock;
        const int64_t count = (p.c_out < o1 * kBlock ? p.c_out : o1 * kBlock) - o0 * kBlock;
        write(y + r * kBlock, rows * kBlock, count, after, p.eps, to);
      }
    });
  }

  // A result row of `count` channels in blocks `stride` floats apart, normalised if there is a norm.
  template <class O>
  static void write(float* y, int64_t stride, int64_t count, const Norms& norm, float eps, O* out) {
    RowMoments m{};
    if (norm.weight != nullptr)
      B::template moments<1>([&](int, int64_t c) CNV2_LAMBDA { return y + c / kBlock * stride + c % kBlock; }, count,
                             eps, &m);
    for (int64_t c = 0; c < count; c += kVector) {
      V value = V::load(y + c / kBlock * stride + c % kBlock);
      if (norm.weight != nullptr) value = B::normalize(value, m, norm, c);
      count - c >= kVector ? value.store(out + c) : value.store(out + c, static_cast<int>(count - c));
    }
  }
};

}  // namespace
}  // namespace cnv2
