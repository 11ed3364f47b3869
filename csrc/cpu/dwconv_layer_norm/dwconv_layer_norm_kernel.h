// The one source of the CPU kernels of dwconv_layer_norm, a template over the vector type; each instruction set's .cpp
// includes it with its own flags. All names have internal linkage, so that no two objects share a symbol.
//
// Convolution: V::width channels x kStrip output columns of one row stay in registers. For each of the seven kernel
// rows the seven taps are loaded once, and each input vector is loaded once and multiplied into every accumulator it
// touches: (kStrip + 13) loads for 7 * kStrip multiply-adds.
// LayerNorm: a tile of such results, with all channels, stays in float32 in the cache; two passes for the statistics.
#pragma once

#include <cmath>

#include "cnv2/unroll.h"
#include "cnv2/vec.h"
#include "dwconv_layer_norm.h"

namespace cnv2 {
namespace {

template <class V, int kStrip>
struct DwconvLayerNormKernel {
  static constexpr int kWidth = V::width;
  static constexpr int kWindow = kStrip + kTaps1d - 1;       // input columns under a strip
  static constexpr int kBlockFloats = (kTaps + 1) * kWidth;  // packed: 7x7 taps [ky][kx], then the bias
  // Floats between the pixels of the scratch tile beyond their channels: an odd number of cache lines per pixel at the
  // usual widths keeps them out of each other's cache sets.
  static constexpr int kScratchPad = 16;
  // A tile's width bounds what one row of output needs from the first-level cache (7 rows x 34 columns x one line =
  // 15 KB); its float32 results (128 KB) stay in the second level. Its height amortises both.
  static constexpr int64_t kTileColumns = 28;
  static constexpr int64_t kTileFloats = 32 * 1024;
  static constexpr int64_t kTileRows = 8;
  static constexpr int kPixelsAtOnce = 4;  // LayerNorm: hides the latency of its sums, shares the loads of its weights

  static_assert(kTileColumns % kStrip == 0, "strips of a tile start at its left edge");

  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
  static int64_t channel_blocks(int64_t c) { return ceil_div(c, kWidth); }
  static int64_t pixel_floats(int64_t c) { return channel_blocks(c) * kWidth + kScratchPad; }

  static DwconvLayerNormTiling tiling(const DwconvLayerNormParams& p, int64_t threads) {
    DwconvLayerNormTiling t;
    t.columns = p.w < kTileColumns ? p.w : kTileColumns;
    t.tiles_x = ceil_div(p.w, t.columns);
    t.rows = kTileFloats / (t.columns * pixel_floats(p.c));
    t.rows = t.rows < 1 ? 1 : t.rows > kTileRows ? kTileRows : t.rows;
    t.rows = t.rows < p.h ? t.rows : p.h;
    while (t.rows > 1 && p.n * t.tiles_x * ceil_div(p.h, t.rows) < 4 * threads) t.rows = ceil_div(t.rows, 2);
    t.tiles_y = ceil_div(p.h, t.rows);
    t.tiles = p.n * t.tiles_y * t.tiles_x;
    t.blocks = channel_blocks(p.c);
    t.packed_floats = t.blocks * (kBlockFloats + 2 * kWidth);
    t.scratch_floats = t.rows * t.columns * pixel_floats(p.c);
    return t;
  }

  // ---- parameters -------------------------------------------------------------------------------------------------

  template <class P>
  static void pack_as(const DwconvLayerNormParams& p, float* packed, int64_t begin, int64_t end) {
    const P* kernel = static_cast<const P*>(p.kernel);
    float* ln = packed + channel_blocks(p.c) * kBlockFloats;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t c0 = b * kWidth;
      const int lanes = static_cast<int>(p.c - c0 < kWidth ? p.c - c0 : kWidth);
      float* out = packed + b * kBlockFloats;
      const auto copy = [&](const P* from, float* to) {
        (lanes == kWidth ? V::load(from + c0) : V::load(from + c0, lanes)).store(to);
      };
      for (int ky = 0; ky < kTaps1d; ++ky) {
        for (int kx = 0; kx < kTaps1d; ++kx) {
          copy(kernel + (kx * kTaps1d + ky) * p.c, out + (ky * kTaps1d + kx) * kWidth);
        }
      }
      if (p.bias != nullptr) {
        copy(static_cast<const P*>(p.bias), out + kTaps * kWidth);
      } else {
        V::zero().store(out + kTaps * kWidth);
      }
      copy(static_cast<const P*>(p.ln_weight), ln + 2 * c0);
      copy(static_cast<const P*>(p.ln_bias), ln + 2 * c0 + kWidth);
    }
  }

  static void pack(const DwconvLayerNormParams& p, float* packed, int64_t begin, int64_t end) {
    switch (p.param_dtype) {
      case DType::kFloat32:
        return pack_as<float>(p, packed, begin, end);
      case DType::kBFloat16:
        return pack_as<BFloat16>(p, packed, begin, end);
      case DType::kFloat16:
        return pack_as<Half>(p, packed, begin, end);
    }
  }

  // ---- convolution ------------------------------------------------------------------------------------------------

  template <class T, bool kTail>
  static CNV2_INLINE V load(const T* p, int lanes) {
    if constexpr (kTail) {
      return V::load(p, lanes);
    } else {
      return V::load(p);
    }
  }

  struct Strip {
    int64_t row_stride, column_stride;  // of x
    int ky_begin, ky_end;               // kernel rows that fall inside the image
    int begin, end;                     // columns of the window inside the image
    int lanes;                          // channels of this block
    int64_t out_stride;
  };

  // One strip of one row and one channel block. `x`: input row y - 3, column x0 - 3, first channel of the block;
  // never read outside the image. Without kBorder the whole window is inside. Writes kStrip pixels to `out`, at most
  // `count` of them wanted.
  template <class T, bool kBorder, bool kTail>
  static CNV2_INLINE void convolve(const T* x, const float* packed, float* out, int count, const Strip& s) {
    V acc[kStrip];
    unroll<0, kStrip>([&](auto j) CNV2_LAMBDA { acc[j.value] = V::zero(); });
    for (int ky = s.ky_begin; ky < s.ky_end; ++ky) {
      const T* row = x + ky * s.row_stride;
      const float* taps = packed + ky * kTaps1d * kWidth;
      V tap[kTaps1d];
      unroll<0, kTaps1d>([&](auto k) CNV2_LAMBDA { tap[k.value] = V::load(taps + k.value * kWidth); });
      unroll<0, kWindow>([&](auto i) CNV2_LAMBDA {
        if (kBorder && (i.value < s.begin || i.value >= s.end)) return;
        const V in = load<T, kTail>(row + i.value * s.column_stride, s.lanes);
        constexpr int first = i.value < kTaps1d ? 0 : i.value - kTaps1d + 1;
        constexpr int last = i.value < kStrip ? i.value : kStrip - 1;
        unroll<first, last + 1>([&](auto j)
                                    CNV2_LAMBDA { acc[j.value] = V::fma(in, tap[i.value - j.value], acc[j.value]); });
      });
    }
    // Last: a large bias does not cost the sums their low bits.
    const V bias = V::load(packed + kTaps * kWidth);
    unroll<0, kStrip>([&](auto j) CNV2_LAMBDA {
      if (!kBorder || j.value < count) V::add(acc[j.value], bias).store(out + j.value * s.out_stride);
    });
  }

  // All strips of one row of a tile, one channel block. Not inlined: measured a little faster, and less code.
  template <class T, bool kTail>
  static __attribute__((noinline)) void convolve_block(const DwconvLayerNormParams& p, const T* image,
                                                       const float* packed, float* scratch, int64_t y, int64_t x_begin,
                                                       int64_t x_end, int64_t c0, int lanes) {
    Strip s;
    s.row_stride = p.w * p.c;
    s.column_stride = p.c;
    s.ky_begin = static_cast<int>(y < kPad ? kPad - y : 0);
    s.ky_end = static_cast<int>(p.h + kPad - y < kTaps1d ? p.h + kPad - y : kTaps1d);
    s.lanes = lanes;
    s.out_stride = pixel_floats(p.c);
    const T* rows = image + (y - kPad) * s.row_stride + c0;
    for (int64_t x = x_begin; x < x_end; x += kStrip) {
      const T* window = rows + (x - kPad) * s.column_stride;
      float* out = scratch + (x - x_begin) * s.out_stride + c0;
      const int count = static_cast<int>(x_end - x < kStrip ? x_end - x : kStrip);
      if (x >= kPad && x + kStrip + kPad <= p.w && count == kStrip) {
        convolve<T, false, kTail>(window, packed, out, count, s);
      } else {
        s.begin = static_cast<int>(x < kPad ? kPad - x : 0);
        const int64_t end = x + count + kPad < p.w ? count + 2 * kPad : p.w - x + kPad;
        s.end = static_cast<int>(end);
        convolve<T, true, kTail>(window, packed, out, count, s);
      }
    }
  }

  // ---- LayerNorm --------------------------------------------------------------------------------------------------

  // Calls body(Index<sum>, first channel) for every whole vector of channels below `end`, spread over kSums sums in
  // turn.
  template <int kSums, class F>
  static CNV2_INLINE void each_vector(int64_t end, const F& body) {
    const int64_t whole = end / (kSums * kWidth) * (kSums * kWidth);
    for (int64_t c = 0; c < whole; c += kSums * kWidth) {
      unroll<0, kSums>([&](auto s) CNV2_LAMBDA { body(s, c + s.value * kWidth); });
    }
    for (int64_t c = whole; c < end; c += kWidth) body(Index<0>{}, c);
  }

  template <int kSums>
  static CNV2_INLINE float total(const V* sums) {
    V all = sums[0];
    unroll<1, kSums>([&](auto s) CNV2_LAMBDA { all = V::add(all, sums[s.value]); });
    return all.sum();
  }

  // kCount neighbouring pixels. `z`: their scratch; `pixel`: the first one's index in [N * H * W]. Every pixel is added
  // up in the same order whatever kCount is: results must not depend on the tiling.
  template <class T, int kCount>
  static CNV2_INLINE void normalize(const DwconvLayerNormParams& p, const float* z, const float* ln, int64_t pixel) {
    constexpr int kSums = 2;
    const int64_t stride = pixel_floats(p.c);
    const int64_t full = p.c / kWidth * kWidth;
    const int lanes = static_cast<int>(p.c - full);
    const float inverse_c = 1.0f / static_cast<float>(p.c);

    V sum[kCount][kSums], square[kCount][kSums];
    float mean[kCount], rstd[kCount];
    unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
      unroll<0, kSums>([&](auto s) CNV2_LAMBDA { sum[k.value][s.value] = square[k.value][s.value] = V::zero(); });
    });
    each_vector<kSums>(p.c, [&](auto s, int64_t c) CNV2_LAMBDA {  // the lanes past C are zero
      unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
        sum[k.value][s.value] = V::add(sum[k.value][s.value], V::load(z + k.value * stride + c));
      });
    });
    unroll<0, kCount>([&](auto k) CNV2_LAMBDA { mean[k.value] = total<kSums>(sum[k.value]) * inverse_c; });
    each_vector<kSums>(full, [&](auto s, int64_t c) CNV2_LAMBDA {
      unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
        const V d = V::sub(V::load(z + k.value * stride + c), V::set(mean[k.value]));
        square[k.value][s.value] = V::fma(d, d, square[k.value][s.value]);
      });
    });
    unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
      if (lanes > 0) {
        const V d = V::sub(V::load(z + k.value * stride + full), V::set(mean[k.value])).keep(lanes);
        square[k.value][0] = V::fma(d, d, square[k.value][0]);
      }
      rstd[k.value] = 1.0f / std::sqrt(total<kSums>(square[k.value]) * inverse_c + p.eps);
    });

    T* y = static_cast<T*>(p.y) + pixel * p.c;
    for (int64_t c = 0; c < full; c += kWidth) {
      const V weight = V::load(ln + 2 * c), bias = V::load(ln + 2 * c + kWidth);
      unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
        const V unit = V::mul(V::sub(V::load(z + k.value * stride + c), V::set(mean[k.value])), V::set(rstd[k.value]));
        V::fma(unit, weight, bias).store(y + k.value * p.c + c);
      });
    }
    if (lanes > 0) {
      const V weight = V::load(ln + 2 * full), bias = V::load(ln + 2 * full + kWidth);
      unroll<0, kCount>([&](auto k) CNV2_LAMBDA {
        const V unit =
            V::mul(V::sub(V::load(z + k.value * stride + full), V::set(mean[k.value])), V::set(rstd[k.value]));
        V::fma(unit, weight, bias).store(y + k.value * p.c + full, lanes);
      });
    }
    if (p.z == nullptr) return;
    for (int k = 0; k < kCount; ++k) {
      if (p.mean != nullptr) p.mean[pixel + k] = mean[k];
      if (p.rstd != nullptr) p.rstd[pixel + k] = rstd[k];
      T* out = static_cast<T*>(p.z) + (pixel + k) * p.c;
      for (int64_t c = 0; c < full; c += kWidth) V::load(z + k * stride + c).store(out + c);
      if (lanes > 0) V::load(z + k * stride + full).store(out + full, lanes);
    }
  }

  // ---- tiles ------------------------------------------------------------------------------------------------------

  template <class T>
  static void run_as(const DwconvLayerNormParams& p, const DwconvLayerNormTiling& t, const float* packed,
                     float* scratch, int64_t begin, int64_t end) {
    // Blocks of channels that share cache lines of x go together, row by row: each line is fetched once per tile.
    constexpr int64_t kLine = 64 / sizeof(T) > kWidth ? 64 / sizeof(T) / kWidth : 1;
    const int64_t pixel = pixel_floats(p.c);
    const float* ln = packed + t.blocks * kBlockFloats;
    const int64_t full = p.c / kWidth;
    const int lanes = static_cast<int>(p.c - full * kWidth);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t tx = tile % t.tiles_x;
      const int64_t ty = tile / t.tiles_x % t.tiles_y;
      const int64_t n = tile / t.tiles_x / t.tiles_y;
      const int64_t y_begin = ty * t.rows, x_begin = tx * t.columns;
      const int64_t y_end = y_begin + t.rows < p.h ? y_begin + t.rows : p.h;
      const int64_t x_end = x_begin + t.columns < p.w ? x_begin + t.columns : p.w;
      const T* image = static_cast<const T*>(p.x) + n * p.h * p.w * p.c;
      const int64_t scratch_row = (x_end - x_begin) * pixel;
      for (int64_t line = 0; line < t.blocks; line += kLine) {
        for (int64_t y = y_begin; y < y_end; ++y) {
          float* out = scratch + (y - y_begin) * scratch_row;
          for (int64_t b = line; b < line + kLine && b < t.blocks; ++b) {
            const float* block = packed + b * kBlockFloats;
            if (b < full) {
              convolve_block<T, false>(p, image, block, out, y, x_begin, x_end, b * kWidth, kWidth);
            } else {
              convolve_block<T, true>(p, image, block, out, y, x_begin, x_end, b * kWidth, lanes);
            }
          }
        }
      }
      for (int64_t y = y_begin; y < y_end; ++y) {
        const float* z = scratch + (y - y_begin) * scratch_row;
        const int64_t first = (n * p.h + y) * p.w;
        int64_t x = x_begin;
        for (; x + kPixelsAtOnce <= x_end; x += kPixelsAtOnce) {
          normalize<T, kPixelsAtOnce>(p, z + (x - x_begin) * pixel, ln, first + x);
        }
        for (; x < x_end; ++x) normalize<T, 1>(p, z + (x - x_begin) * pixel, ln, first + x);
      }
    }
  }

  static void run(const DwconvLayerNormParams& p, const DwconvLayerNormTiling& t, const float* packed, float* scratch,
                  int64_t begin, int64_t end) {
    switch (p.dtype) {
      case DType::kFloat32:
        return run_as<float>(p, t, packed, scratch, begin, end);
      case DType::kBFloat16:
        return run_as<BFloat16>(p, t, packed, scratch, begin, end);
      case DType::kFloat16:
        return run_as<Half>(p, t, packed, scratch, begin, end);
    }
  }
};

}  // namespace
}  // namespace cnv2
