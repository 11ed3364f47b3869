// The blocks of k x k pixels that patch_conv's products read, gathered and normalised; what the forward and the
// backward share. All names have internal linkage.
#pragma once

#include <cstring>

#include "cpu/common/moments.h"
#include "cpu/common/scratch.h"
#include "cpu/gemm/gemm.h"
#include "patch_conv.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op = PlainFloats<V>>
struct PatchBlocks : Gemm<V, kRows, Op> {
  using G = Gemm<V, kRows, Op>;
  using G::kBlock, G::kVector, G::kWords;
  using typename G::T;
  static constexpr int64_t kRun = 8 * kRows;  // rows that a thread multiplies at once

  struct Norms {
    const float *weight, *bias;  // [channels], completed to whole blocks; null: none
  };
  static Norms norm_of(const PatchNorm& norm, int64_t channels, float* memory, int64_t blocks) {
    if (norm.weight.data == nullptr) return {nullptr, nullptr};
    G::pack_vector(norm.weight, channels, memory);
    G::pack_vector(norm.bias, channels, memory + blocks * kBlock);
    return {memory, memory + blocks * kBlock};
  }

  // Rows [first, first + rows) in the blocked form of a matrix product, column blocks `height` rows apart.
  static void operand(const PatchConvForward& p, const Norms& norm, int64_t first, int64_t rows,
                      float* __restrict__ gathered,  // [gathered_floats(depth)]
                      float* __restrict__ out, int64_t height) {
    const int64_t depth = p.k * p.k * p.c_in, line = gathered_floats(depth) / kRows;
    with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
      // Some rows before the first is read again: what was just stored cannot be loaded at once in other pieces.
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t here = rows - r < kRows ? rows - r : kRows;
        for (int64_t i = 0; i < here; ++i) gather(p, x, norm, first + r + i, gathered + i * line);
        for (int64_t i = 0; i < here; ++i) {
          Pack<V, Op>::rows(gathered + i * line, 1, depth, out + (r + i) * kWords, height * kWords);
        }
      }
    });
  }
  // Some rows gathered, each with room to write a whole block past its end.
  static int64_t gathered_floats(int64_t depth) { return kRows * (T::blocks(depth) + 2) * kBlock; }

  // The number of pixel i, counted (ky, kx), of a result row; -1: absent.
  static int64_t pixel_of(const PatchConvForward& p, int64_t row, int64_t i) {
    if (p.table != nullptr && p.table_columns != 1) return p.table[row * p.k * p.k + i];
    const int64_t position = p.table != nullptr ? p.table[row] : row;
    const int64_t across = p.width / p.k, down = p.height / p.k;
    const int64_t y = position / across % down * p.k + i / p.k, x = position % across * p.k + i % p.k;
    return (position / (across * down) * p.height + y) * p.width + x;
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

  template <class O>
  static void copy(const float* __restrict__ from,  // [count], completed to a vector
                   int64_t count,
                   O* __restrict__ to) {  // [count]
    for (int64_t c = 0; c < count; c += kVector) {
      const V v = V::load(from + c);
      count - c >= kVector ? v.store(to + c) : v.store(to + c, static_cast<int>(count - c));
    }
  }

  // ---- LayerNorm --------------------------------------------------------------------------------------------------

  // Mean and 1/std of kCount rows at once, in two passes; at(row, channel) points to a vector of channels that can be
  // read to its end.
  template <int kCount, class At>
  static CNV2_INLINE void moments(const At& at, int64_t channels, float eps, RowMoments* out) {
    const int64_t whole = channels / kVector * kVector;
    const int left = static_cast<int>(channels - whole);
    V sum[kCount], rest[kCount], centre[kCount];
    float estimate[kCount];
    const auto each = [&](const auto& add) CNV2_LAMBDA {
      unroll<0, kCount>([&](auto i) CNV2_LAMBDA { sum[i.value] = rest[i.value] = V::zero(); });
      for (int64_t c = 0; c < whole; c += kVector) {
        unroll<0, kCount>([&](auto i) CNV2_LAMBDA { add(i, V::load(at(i.value, c)), kVector); });
      }
      if (left > 0) unroll<0, kCount>([&](auto i) CNV2_LAMBDA { add(i, V::load(at(i.value, whole), left), left); });
    };
    each([&](auto i, V x, int) CNV2_LAMBDA { sum[i.value] = V::add(sum[i.value], x); });
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
      estimate[i.value] = sum[i.value].sum() / static_cast<float>(channels);
      centre[i.value] = V::set(estimate[i.value]);
    });
    each([&](auto i, V x, int lanes) CNV2_LAMBDA {
      V d = V::sub(x, centre[i.value]);
      if (lanes < kVector) d = d.keep(lanes);
      rest[i.value] = V::add(rest[i.value], d);
      sum[i.value] = V::fma(d, d, sum[i.value]);
    });
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
      out[i.value] = moments_about(estimate[i.value], rest[i.value].sum(), sum[i.value].sum(), channels, eps);
    });
  }
  // kCount pixels, one after the other, in place.
  template <int kCount>
  static void normalize_pixels(float* x, int64_t channels, const Norms& norm, float eps) {
    RowMoments m[kCount];
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
  static CNV2_INLINE V normalize(V x, const RowMoments& m, const Norms& norm, int64_t c) {
    const V scaled = V::mul(V::sub(x, V::set(m.mean)), V::set(m.rstd));
    return V::fma(scaled, V::load(norm.weight + c), V::load(norm.bias + c));
  }
};

}  // namespace
}  // namespace cnv2
