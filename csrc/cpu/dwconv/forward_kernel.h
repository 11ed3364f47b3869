// The one source of the CPU kernels of the depthwise convolution's forward, with or without LayerNorm, and of its
// input's gradient: a template over the vector type; each instruction set's .cpp includes it with its own flags.
// Internal linkage throughout.
//
// Tiles of dense planes are cut into strips of kStrip columns, those of sparse planes into strips of active sites. With
// LayerNorm the tile's results, with all channels, stay in float32 in the cache until they are normalised.
#pragma once

#include "cpu/common/dtype_switch.h"
#include "normalize.h"
#include "sites.h"
#include "strip.h"

namespace cnv2 {
namespace {

template <class V, int kStrip>
struct DwconvForwardKernel {
  static constexpr int kWidth = V::width;
  static constexpr int kBlockFloats = (kDwconvTaps + 1) * kWidth;  // packed: 7x7 taps [ky][kx], then the bias
  // Floats between the sites of the scratch tile beyond their channels: an odd number of cache lines per site at the
  // usual widths keeps them out of each other's cache sets.
  static constexpr int kScratchPad = 16;
  // A tile's width bounds what one row of output needs from the first-level cache (7 rows x 34 columns x one line =
  // 15 KB); its float32 results (128 KB) stay in the second level. Its height amortises both.
  static constexpr int64_t kTileColumns = 28, kSparseTileColumns = 32;
  static constexpr int64_t kTileFloats = 32 * 1024;
  static constexpr int64_t kTileRows = 8;
  static constexpr int kSitesAtOnce = 4;

  static_assert(kTileColumns % kStrip == 0, "strips of a tile start at its left edge");

  static int64_t channel_blocks(int64_t c) { return ceil_div(c, kWidth); }
  static int64_t site_floats(int64_t c) { return channel_blocks(c) * kWidth + kScratchPad; }

  static DwconvCpuTiling tiling(const DwconvForward& p, int64_t threads) {
    const DwconvPlane& plane = p.plane;
    const int64_t columns = plane.map == nullptr ? kTileColumns : kSparseTileColumns;
    DwconvCpuTiling t;
    t.columns = plane.w < columns ? plane.w : columns;
    t.tiles_x = ceil_div(plane.w, t.columns);
    t.rows = p.ln_weight == nullptr ? kTileRows : kTileFloats / (t.columns * site_floats(p.c));
    t.rows = t.rows < 1 ? 1 : t.rows > kTileRows ? kTileRows : t.rows;
    t.rows = t.rows < plane.h ? t.rows : plane.h;
    while (t.rows > 1 && plane.n * t.tiles_x * ceil_div(plane.h, t.rows) < 4 * threads) t.rows = ceil_div(t.rows, 2);
    t.tiles_y = ceil_div(plane.h, t.rows);
    t.tiles = plane.n * t.tiles_y * t.tiles_x;
    t.blocks = channel_blocks(p.c);
    t.packed_floats = t.blocks * (kBlockFloats + (p.ln_weight == nullptr ? 0 : 2 * kWidth));
    t.scratch_floats = (p.ln_weight == nullptr ? 0 : t.rows * t.columns * site_floats(p.c)) +
                       (plane.map == nullptr ? 0 : TileSites::floats(t));
    return t;
  }

  // ---- parameters -------------------------------------------------------------------------------------------------

  template <class P>
  static void pack_as(const DwconvForward& p, float* __restrict__ packed, int64_t begin, int64_t end) {
    float* ln = packed + channel_blocks(p.c) * kBlockFloats;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t c0 = b * kWidth;
      const int lanes = static_cast<int>(p.c - c0 < kWidth ? p.c - c0 : kWidth);
      float* out = packed + b * kBlockFloats;
      const auto copy = [&](const auto* from, float* to) {
        (lanes == kWidth ? V::load(from + c0) : V::load(from + c0, lanes)).store(to);
      };
      for (int ky = 0; ky < kDwconvSide; ++ky) {
        for (int kx = 0; kx < kDwconvSide; ++kx) {
          const int tap = kx * kDwconvSide + ky;
          copy(p.taps + (p.flipped ? kDwconvTaps - 1 - tap : tap) * p.c, out + (ky * kDwconvSide + kx) * kWidth);
        }
      }
      if (p.bias != nullptr) {
        copy(static_cast<const P*>(p.bias), out + kDwconvTaps * kWidth);
      } else {
        V::zero().store(out + kDwconvTaps * kWidth);
      }
      if (p.ln_weight == nullptr) continue;
      copy(static_cast<const P*>(p.ln_weight), ln + 2 * c0);
      copy(static_cast<const P*>(p.ln_bias), ln + 2 * c0 + kWidth);
    }
  }

  // Blocks [begin, end) of packed [blocks][kBlockFloats], then, with LayerNorm, of [blocks][2][kWidth].
  static void pack(const DwconvForward& p, float* __restrict__ packed, int64_t begin, int64_t end) {
    with_dtype(p.param_dtype, p.bias, [&](auto* bias) { pack_as<StoredAs<decltype(bias)>>(p, packed, begin, end); });
  }

  // ---- dense planes -----------------------------------------------------------------------------------------------

  // One strip and one channel block, of which `count` columns are wanted. Sums are stored as float32 with all lanes
  // where LayerNorm will read them, else as outputs.
  template <bool kTail, bool kAll, class O, bool kSum, class Window>
  static CNV2_INLINE void strip(const Window& window,
                                const float* __restrict__ packed,  // [kBlockFloats]
                                O* __restrict__ out,               // [count][out_stride]
                                int64_t out_stride, int count, int lanes) {
    V acc[kStrip];
    Strip<V, kStrip>::template convolve<kTail>(window, packed, lanes, acc);
    // Last: a large bias does not cost the sums their low bits.
    const V bias = V::load(packed + kDwconvTaps * kWidth);
    unroll<0, kStrip>([&](auto j) CNV2_LAMBDA {
      if (!kAll && j.value >= count) return;
      store_block<kTail && !kSum>(V::add(acc[j.value], bias), out + j.value * out_stride, lanes);
    });
  }

  // All strips of one row of a tile, one channel block. `out` points to the first site. Not inlined: measured a little
  // faster, and less code.
  template <class T, bool kTail, class O, bool kSum>
  static __attribute__((noinline)) void row_of_strips(
      const DwconvForward& p,
      const T* __restrict__ image,       // [H, W, C], from the block's first channel on
      const float* __restrict__ packed,  // [kBlockFloats]
      O* __restrict__ out,               // [columns of the tile][out_stride]
      int64_t out_stride, int64_t y, const TileBounds& tile, int lanes) {
    const int64_t w = p.plane.w;
    const int begin = first_kernel_row(y), end = last_kernel_row(y, p.plane.h);
    for (int64_t x = tile.x_begin; x < tile.x_end; x += kStrip) {
      const InsideWindow<T> inside{image + ((y - kDwconvPad) * w + x - kDwconvPad) * p.c, w * p.c, p.c, begin, end};
      Strip<V, kStrip>::prefetch_below(inside);
      const int count = static_cast<int>(tile.x_end - x < kStrip ? tile.x_end - x : kStrip);
      if (x >= kDwconvPad && x + kStrip + kDwconvPad <= w && count == kStrip) {
        strip<kTail, true, O, kSum>(inside, packed, out, out_stride, count, lanes);
      } else {
        const int first = static_cast<int>(x < kDwconvPad ? kDwconvPad - x : 0);
        const int last = static_cast<int>(x + count + kDwconvPad < w ? count + 2 * kDwconvPad : w - x + kDwconvPad);
        const EdgeWindow<T> edge{inside, first, last, begin, end};
        strip<kTail, false, O, kSum>(edge, packed, out, out_stride, count, lanes);
      }
      out += kStrip * out_stride;
    }
  }

  // Blocks of channels that share cache lines of x go together, row by row: each line is fetched once per tile.
  template <class T>
  static constexpr int64_t kLine = 64 / sizeof(T) > kWidth ? 64 / sizeof(T) / kWidth : 1;

  template <class T, class O, bool kSum>
  static void dense_tile(const DwconvForward& p, const DwconvCpuTiling& t,
                         const float* __restrict__ packed,  // [t.blocks][kBlockFloats]
                         const TileBounds& tile,
                         O* __restrict__ out,  // rows `out_row`, columns `out_stride` elements apart
                         int64_t out_row, int64_t out_stride) {
    const T* image = static_cast<const T*>(p.x) + tile.n * p.plane.h * p.plane.w * p.c;
    const int64_t full = p.c / kWidth;
    for (int64_t line = 0; line < t.blocks; line += kLine<T>) {
      for (int64_t y = tile.y_begin; y < tile.y_end; ++y) {
        for (int64_t b = line; b < line + kLine<T> && b < t.blocks; ++b) {
          const float* block = packed + b * kBlockFloats;
          const int64_t c0 = b * kWidth;
          O* to = out + (y - tile.y_begin) * out_row + c0;
          if (b < full) {
            row_of_strips<T, false, O, kSum>(p, image + c0, block, to, out_stride, y, tile, kWidth);
          } else {
            row_of_strips<T, true, O, kSum>(p, image + c0, block, to, out_stride, y, tile, static_cast<int>(p.c - c0));
          }
        }
      }
    }
  }

  // ---- sparse planes ----------------------------------------------------------------------------------------------

  // All channels of one strip of sites. `sums`: float32 of the strip's first site, or null: to p.y.
  template <class T, int kLength>
  static __attribute__((noinline)) void site_strip(const DwconvForward& p,
                                                   const float* __restrict__ packed,  // [t.blocks][kBlockFloats]
                                                   const TileSites& sites, const SiteStrip& s,
                                                   float* __restrict__ sums,  // [kLength][sums_stride]
                                                   int64_t sums_stride) {
    const auto block = [&](auto tail, int64_t c0, int lanes) CNV2_LAMBDA {
      constexpr bool kTail = tail.value != 0;
      const float* taps = packed + c0 / kWidth * kBlockFloats;
      V acc[kLength];
      Strip<V, kLength>::template convolve<kTail>(sites.window(s, static_cast<const T*>(p.x) + c0), taps, lanes, acc);
      const V bias = V::load(taps + kDwconvTaps * kWidth);
      unroll<0, kLength>([&](auto j) CNV2_LAMBDA {
        const int64_t offset = sites.offset(s.y, s.x + j.value);
        if (j.value >= s.count || offset < 0) return;
        const V value = V::add(acc[j.value], bias);
        if (sums != nullptr) {
          value.store(sums + j.value * sums_stride + c0);
        } else {
          store_block<kTail>(value, static_cast<T*>(p.y) + offset + c0, lanes);
        }
      });
    };
    int64_t c0 = 0;
    for (; c0 + kWidth <= p.c; c0 += kWidth) block(Index<0>{}, c0, kWidth);
    if (c0 < p.c) block(Index<1>{}, c0, static_cast<int>(p.c - c0));
  }

  // ---- tiles ------------------------------------------------------------------------------------------------------

  // Normalises the sites of a tile: `offset(y, x)`, from the tile's corner, of the site's row, negative where inactive.
  template <class T, class Offset>
  static CNV2_INLINE void normalize_tile(
      const DwconvForward& p, const TileBounds& tile,
      const float* __restrict__ sums,  // rows `sums_row`, columns `sums_stride` apart
      int64_t sums_row, int64_t sums_stride,
      const float* __restrict__ ln,  // [t.blocks][2][kWidth]
      const Offset& offset) {
    const float* z[kSitesAtOnce];
    int64_t offsets[kSitesAtOnce];
    int waiting = 0;
    for (int64_t y = 0; y < tile.y_end - tile.y_begin; ++y) {
      for (int64_t x = 0; x < tile.x_end - tile.x_begin; ++x) {
        const int64_t at = offset(y, x);
        if (at < 0) continue;
        z[waiting] = sums + y * sums_row + x * sums_stride;
        offsets[waiting] = at;
        if (++waiting < kSitesAtOnce) continue;
        Normalize<V, T, kSitesAtOnce>::run(p, z, offsets, ln);
        waiting = 0;
      }
    }
    for (int k = 0; k < waiting; ++k) Normalize<V, T, 1>::run(p, {z[k]}, {offsets[k]}, ln);
  }

  template <class T>
  static void run_as(const DwconvForward& p, const DwconvCpuTiling& t,
                     const float* __restrict__ packed,  // [t.packed_floats]
                     float* __restrict__ scratch,       // [t.scratch_floats]
                     int64_t begin, int64_t end) {
    const bool norm = p.ln_weight != nullptr;
    const int64_t site = site_floats(p.c), sums_row = t.columns * site;
    const float* ln = packed + t.blocks * kBlockFloats;
    float* sums = scratch + (p.plane.map == nullptr ? 0 : TileSites::floats(t));
    for (int64_t i = begin; i < end; ++i) {
      const TileBounds tile = TileBounds::of(p.plane, t, i);
      if (p.plane.map == nullptr) {
        const int64_t w = p.plane.w, first = (tile.n * p.plane.h + tile.y_begin) * w + tile.x_begin;
        if (!norm) {
          dense_tile<T, T, false>(p, t, packed, tile, static_cast<T*>(p.y) + first * p.c, w * p.c, p.c);
          continue;
        }
        dense_tile<T, float, true>(p, t, packed, tile, sums, sums_row, site);
        normalize_tile<T>(p, tile, sums, sums_row, site, ln,
                          [&](int64_t y, int64_t x) CNV2_LAMBDA { return (first + y * w + x) * p.c; });
      } else {
        const TileSites sites(p.plane, t, tile, p.c, scratch);
        for (int64_t k = 0; k < sites.count(); ++k) {
          const SiteStrip& s = sites.strip(k);
          float* to = norm ? sums + s.y * sums_row + s.x * site : nullptr;
          with_length(s.length, [&](auto length) { site_strip<T, length.value>(p, packed, sites, s, to, site); });
        }
        if (!norm) continue;
        normalize_tile<T>(p, tile, sums, sums_row, site, ln,
                          [&](int64_t y, int64_t x) CNV2_LAMBDA { return sites.offset(y, x); });
      }
    }
  }

  static void run(const DwconvForward& p, const DwconvCpuTiling& t,
                  const float* __restrict__ packed,  // [t.packed_floats]
                  float* __restrict__ scratch,       // [t.scratch_floats]
                  int64_t begin, int64_t end) {
    with_dtype(p.dtype, p.x, [&](auto* x) { run_as<StoredAs<decltype(x)>>(p, t, packed, scratch, begin, end); });
  }
};

}  // namespace
}  // namespace cnv2
