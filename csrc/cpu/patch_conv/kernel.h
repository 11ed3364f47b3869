// The one source of patch_conv's kernels, a template over the vector type; each instruction set's .cpp includes it
// with its own flags. All names have internal linkage.
#pragma once

#include <cmath>
#include <cstring>

#include "cpu/common/scratch.h"
#include "cpu/gemm/gemm.h"
#include "patch_conv.h"

namespace cnv2 {
namespace {

template <class V, int kRows>
struct PatchConvKernel : Gemm<V, kRows> {
  using G = Gemm<V, kRows>;
  using G::kBlock, G::kVector;
  using typename G::T;
  static constexpr int64_t kRun = 8 * kRows;  // rows that a thread gathers and multiplies at once

  static int64_t packed_floats(const PatchWeight& w) { return T::blocks(w.c_out) * (w.depth() + 1) * kBlock; }

  // Panels of the matrix [k * k * c_in, c_out], its rows in the order (ky, kx, channel); then the bias.
  static void pack(const PatchWeight& w, float* packed, const Parallel& parallel) {
    const int64_t blocks = T::blocks(w.c_out), depth = w.depth();
    parallel(0, blocks, grain(depth * kBlock * 16), [&](int64_t begin, int64_t end) {
      with_dtype(w.data.dtype, w.data.data, [&](auto* data) {
        for (int64_t j = begin; j < end; ++j) panel(w, data, j * kBlock, packed + j * depth * kBlock);
      });
    });
    float* start = packed + blocks * depth * kBlock;
    if (w.bias.data != nullptr) {
      G::pack_vector(w.bias, w.c_out, start);
    } else {
      std::memset(start, 0, blocks * kBlock * sizeof(float));
    }
  }

  static void run(const PatchConvForward& p, const Parallel& parallel) {
    const int64_t cb = T::blocks(p.c_in), ob = T::blocks(p.c_out);
    float* norms = thread_scratch(ScratchSlot::kVectors, 2 * (cb + ob) * kBlock);
    const Norms before = norm_of(p.before, p.c_in, norms, cb),
                after = norm_of(p.after, p.c_out, norms + 2 * cb * kBlock, ob);
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

  static void gather(const PatchConvForward& p, const Parallel& parallel) {
    const int64_t depth = p.k * p.k * p.c_in, cb = T::blocks(p.c_in);
    float* norms = thread_scratch(ScratchSlot::kVectors, 2 * cb * kBlock);
    const Norms before = norm_of(p.before, p.c_in, norms, cb);
    parallel(0, p.rows, grain(8 * depth), [&](int64_t begin, int64_t end) {
      float* row = thread_scratch(ScratchSlot::kOperand, (T::blocks(depth) + 2) * kBlock);
      with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
        auto* out = static_cast<StoredAs<decltype(x)>*>(p.y);
        for (int64_t r = begin; r < end; ++r) {
          gather(p, x, before, r, row);
          copy(row, depth, out + r * depth);
        }
      });
    });
  }

  static void scatter(const PatchScatter& s, const Parallel& parallel) {
    const PatchConvForward& p = s.of;
    with_dtype(p.x.dtype, s.blocks, [&](auto* blocks) {
      auto* dx = static_cast<StoredAs<decltype(blocks)>*>(s.dx);
      if (!s.covers) std::memset(dx, 0, s.pixels * p.c_in * sizeof(*dx));
      parallel(0, p.rows, grain(4 * p.k * p.k * p.c_in), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          for (int64_t i = 0; i < p.k * p.k; ++i) {
            const int64_t pixel = pixel_of(p, r, i);
            if (pixel < 0) continue;
            std::memcpy(dx + pixel * p.c_in, blocks + (r * p.k * p.k + i) * p.c_in, p.c_in * sizeof(*dx));
          }
        }
      });
    });
  }

 private:
  // The number of pixel i, counted (ky, kx), of a result row; -1: absent.
  static int64_t pixel_of(const PatchConvForward& p, int64_t row, int64_t i) {
    if (p.table != nullptr && p.table_columns != 1) return p.table[row * p.k * p.k + i];
    const int64_t position = p.table != nullptr ? p.table[row] : row;
    const int64_t across = p.width / p.k, down = p.height / p.k;
    const int64_t y = position / across % down * p.k + i / p.k, x = position % across * p.k + i % p.k;
    return (position / (across * down) * p.height + y) * p.width + x;
  }

  template <class O>
  static void copy(const float* __restrict__ from,  // [count], completed to a vector
                   int64_t count,
                   O* __restrict__ to) {  // [count]
    for (int64_t c = 0; c < count; c += kVector) {
      const V v = V::load(from + c);
      count - c >= kVector ? v.store(to + c) : v.store(to + c, static_cast<int>(count - c));
    }
  }

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

  struct Norms {
    const float *weight, *bias;  // [channels], completed to whole blocks; null: none
  };
  static Norms norm_of(const PatchNorm& norm, int64_t channels, float* memory, int64_t blocks) {
    if (norm.weight.data == nullptr) return {nullptr, nullptr};
    G::pack_vector(norm.weight, channels, memory);
    G::pack_vector(norm.bias, channels, memory + blocks * kBlock);
    return {memory, memory + blocks * kBlock};
  }

  // Output panels [o0, o1) of rows [first, first + rows).
  static void product(const PatchConvForward& p, const Norms& before, const Norms& after, int64_t first, int64_t rows,
                      int64_t o0, int64_t o1) {
    const int64_t depth = p.k * p.k * p.c_in, blocks = T::blocks(depth);
    const int64_t line = (blocks + 2) * kBlock;  // a row gathered, and room to write a whole block past its end
    float* memory = thread_scratch(ScratchSlot::kOperand, kRows * line + (blocks + o1 - o0) * rows * kBlock);
    float *gathered = memory, *a = memory + kRows * line, *y = a + blocks * rows * kBlock;
    with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
      // Some rows before the first is read again: what was just stored cannot be loaded at once in other pieces.
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t here = rows - r < kRows ? rows - r : kRows;
        for (int64_t i = 0; i < here; ++i) gather(p, x, before, first + r + i, gathered + i * line);
        for (int64_t i = 0; i < here; ++i) {
          Pack<V>::rows(gathered + i * line, 1, depth, a + (r + i) * kBlock, rows * kBlock);
        }
      }
    });
    const float* w = p.packed + o0 * depth * kBlock;
    G::multiply(
        {a, rows * kBlock, w, depth, y, rows * kBlock, p.packed + T::blocks(p.c_out) * depth * kBlock + o0 * kBlock,
         rows, o1 - o0},
        [](int64_t, int64_t) {}, [&](int64_t o, int64_t k, int64_t) { return w + (o * depth + k) * kBlock; },
        [](int64_t) {});
    with_dtype(p.x.dtype, p.y, [&](auto* out) {
      for (int64_t r = 0; r < rows; ++r) {
        auto* to = out + (first + r) * p.c_out + o0 * kBlock;
        const int64_t count = (p.c_out < o1 * kBlock ? p.c_out : o1 * kBlock) - o0 * kBlock;
        write(y + r * kBlock, rows * kBlock, count, after, p.eps, to);
      }
    });
  }

  // The pixels of a result row, k * k * c_in floats. Writes up to a block more.
  template <class S>
  static void gather(const PatchConvForward& p, const S* x, const Norms& norm, int64_t row, float* out) {
    const int64_t pixels = p.k * p.k;
    if (p.table != nullptr && p.table_columns != 1) {
      for (int64_t i = 0; i < pixels; ++i) {
        const int64_t pixel = p.table[row * pixels + i];
        float* to = out + i * p.c_in;
        if (pixel >= 0) {
          take(p, x + pixel * p.pixel_stride, to);
          if (norm.weight != nullptr) normalize_pixels<1>(to, p.c_in, norm, p.eps);
        } else {
          std::memset(to, 0, p.c_in * sizeof(float));
        }
      }
      return;
    }
    const int64_t position = p.table != nullptr ? p.table[row] : row;
    const int64_t across = p.width / p.k, down = p.height / p.k;
    const S* block = x + position / (across * down) * p.sample_stride + position / across % down * p.k * p.row_stride +
                     position % across * p.k * p.pixel_stride;
    if (p.k == 4 && p.c_in == 3 && norm.weight == nullptr) {
      image_block<4, 3>(p, block, out);
      return;
    }
    for (int64_t ky = 0; ky < p.k; ++ky) {
      for (int64_t kx = 0; kx < p.k; ++kx) {
        take(p, block + ky * p.row_stride + kx * p.pixel_stride, out + (ky * p.k + kx) * p.c_in);
      }
    }
    if (norm.weight == nullptr) return;
    int64_t i = 0;
    for (; i + 4 <= pixels; i += 4) normalize_pixels<4>(out + i * p.c_in, p.c_in, norm, p.eps);
    for (; i < pixels; ++i) normalize_pixels<1>(out + i * p.c_in, p.c_in, norm, p.eps);
  }

  // The stem's, from channel planes or channels last: all sizes known.
  template <int k, int c_in, class S>
  static CNV2_INLINE void image_block(const PatchConvForward& p, const S* block, float* out) {
    for (int ky = 0; ky < k; ++ky, block += p.row_stride) {
      for (int kx = 0; kx < k; ++kx) {
        for (int c = 0; c < c_in; ++c) *out++ = to_float(block[kx * p.pixel_stride + c * p.channel_stride]);
      }
    }
  }

  // One pixel. What it writes past its end belongs to the next, or to the room behind the row.
  template <class S>
  static CNV2_INLINE void take(const PatchConvForward& p, const S* pixel, float* out) {
    if (p.channel_stride == 1) {
      for (int64_t c = 0; c < p.c_in; c += kVector) Pack<V>::load(pixel + c, p.c_in - c).store(out + c);
    } else {
      for (int64_t c = 0; c < p.c_in; ++c) out[c] = to_float(pixel[c * p.channel_stride]);
    }
  }

  // A result row of `count` channels in blocks `stride` floats apart, normalised if there is a norm.
  template <class O>
  static void write(float* y, int64_t stride, int64_t count, const Norms& norm, float eps, O* out) {
    Moments m{};
    if (norm.weight != nullptr)
      moments<1>([&](int, int64_t c) CNV2_LAMBDA { return y + c / kBlock * stride + c % kBlock; }, count, eps, &m);
    for (int64_t c = 0; c < count; c += kVector) {
      V value = V::load(y + c / kBlock * stride + c % kBlock);
      if (norm.weight != nullptr) value = normalize(value, m, norm, c);
      count - c >= kVector ? value.store(out + c) : value.store(out + c, static_cast<int>(count - c));
    }
  }

  // ---- LayerNorm --------------------------------------------------------------------------------------------------

  struct Moments {
    float mean, rstd;
  };
  // Mean and 1/std of kCount rows at once, in two passes; at(row, channel) points to a vector of channels that can be
  // read to its end.
  template <int kCount, class At>
  static CNV2_INLINE void moments(const At& at, int64_t channels, float eps, Moments* out) {
    const int64_t whole = channels / kVector * kVector;
    const int left = static_cast<int>(channels - whole);
    V sum[kCount], centre[kCount];
    const auto each = [&](const auto& add) CNV2_LAMBDA {
      unroll<0, kCount>([&](auto i) CNV2_LAMBDA { sum[i.value] = V::zero(); });
      for (int64_t c = 0; c < whole; c += kVector) {
        unroll<0, kCount>([&](auto i) CNV2_LAMBDA { add(i, V::load(at(i.value, c)), kVector); });
      }
      if (left > 0) unroll<0, kCount>([&](auto i) CNV2_LAMBDA { add(i, V::load(at(i.value, whole), left), left); });
    };
    each([&](auto i, V x, int) CNV2_LAMBDA { sum[i.value] = V::add(sum[i.value], x); });
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
      out[i.value].mean = sum[i.value].sum() / static_cast<float>(channels);
      centre[i.value] = V::set(out[i.value].mean);
    });
    each([&](auto i, V x, int lanes) CNV2_LAMBDA {
      V d = V::sub(x, centre[i.value]);
      if (lanes < kVector) d = d.keep(lanes);
      sum[i.value] = V::fma(d, d, sum[i.value]);
    });
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
      out[i.value].rstd = 1.f / std::sqrt(sum[i.value].sum() / static_cast<float>(channels) + eps);
    });
  }
  // kCount pixels, one after the other, in place.
  template <int kCount>
  static void normalize_pixels(float* x, int64_t channels, const Norms& norm, float eps) {
    Moments m[kCount];
    moments<kCount>([&](int i, int64_t c) CNV2_LAMBDA { return x + i * channels + c; }, channels, eps, m);
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
      float* pixel = x + i.value * channels;
      for (int64_t c = 0; c < channels; c += kVector) {
        const int64_t left = channels - c;
        const V value = normalize(Pack<V>::load(pixel + c, left), m[i.value], norm, c);
        left >= kVector ? value.store(pixel + c) : value.store(pixel + c, static_cast<int>(left));
      }
    });
  }
  static CNV2_INLINE V normalize(V x, const Moments& m, const Norms& norm, int64_t c) {
    const V scaled = V::mul(V::sub(x, V::set(m.mean)), V::set(m.rstd));
    return V::fma(scaled, V::load(norm.weight + c), V::load(norm.bias + c));
  }
};

}  // namespace
}  // namespace cnv2
