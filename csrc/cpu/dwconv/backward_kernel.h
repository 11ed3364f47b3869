// The one source of the CPU kernels of the parameters' gradients: a template over the vector type; each instruction
// set's .cpp includes it with its own flags. Internal linkage throughout.
//
// A task goes through the tiles of its slab, one vector of channels at a time, whose 50 sums stay in the first-level
// cache. Every few tiles they join the slab's, so that no sum is long. Which tiles make a slab follows from the shape.
#pragma once

#include "cpu/common/dtype_switch.h"
#include "sites.h"
#include "strip.h"

namespace cnv2 {
namespace {

template <class V, int kStrip>
struct DwconvBackwardKernel {
  static constexpr int kWidth = V::width;
  static constexpr int64_t kTileColumns = 28, kSparseTileColumns = 32;  // see the forward
  static constexpr int64_t kTileRows = 8;
  static constexpr int64_t kGroupBlocks = 4;     // share what TileSites costs, and lines of the second-level cache
  static constexpr int64_t kTasks = 64;          // about as many, for any number of threads up to that
  static constexpr int64_t kSitesAtLeast = 256;  // to a slab, and between two additions to its totals

  static_assert(kTileColumns % kStrip == 0, "strips of a tile start at its left edge");

  static DwconvSumsTiling tiling(const DwconvBackward& p) {
    const DwconvPlane& plane = p.plane;
    const int64_t columns = plane.map == nullptr ? kTileColumns : kSparseTileColumns;
    DwconvSumsTiling t;
    t.columns = plane.w < columns ? plane.w : columns;
    t.rows = plane.h < kTileRows ? plane.h : kTileRows;
    t.tiles_x = ceil_div(plane.w, t.columns);
    t.tiles_y = ceil_div(plane.h, t.rows);
    t.tiles = plane.n * t.tiles_y * t.tiles_x;
    const int64_t blocks = ceil_div(p.c, kWidth);
    t.groups = ceil_div(blocks, kGroupBlocks);
    t.group_blocks = ceil_div(blocks, t.groups);
    t.groups = ceil_div(blocks, t.group_blocks);
    const int64_t largest = ceil_div(plane.n * plane.h * plane.w, kSitesAtLeast);
    t.slabs = ceil_div(kTasks, t.groups);
    t.slabs = t.slabs < largest ? t.slabs : largest;
    t.slabs = t.slabs < t.tiles ? t.slabs : t.tiles;
    t.slabs = t.slabs > 1 ? t.slabs : 1;
    t.scratch_floats = 2 * t.group_blocks * kDwconvSums * kWidth + TileSites::floats(t);
    return t;
  }

  // One strip and one channel block: adds to sums [50][kWidth], taps as [ky][kx], then the bias.
  template <bool kTail, int kLength, class Window, class Row>
  static CNV2_INLINE void strip(const Window& window, const Row& outputs, int count, int lanes,
                                float* __restrict__ sums) {
    V dy[kLength], bias = V::zero();
    unroll<0, kLength>([&](auto j) CNV2_LAMBDA {
      const bool there = j.value < count && outputs.has(j.value);
      dy[j.value] = there ? load_block<V, kTail>(outputs.at(j.value), lanes) : V::zero();
      bias = V::add(bias, dy[j.value]);
    });
    V::add(V::load(sums + kDwconvTaps * kWidth), bias).store(sums + kDwconvTaps * kWidth);
    Strip<V, kLength>::template correlate<kTail>(window, dy, lanes, sums);
  }

  template <class T, bool kTail>
  static __attribute__((noinline)) void dense_tile(const DwconvBackward& p, const TileBounds& tile, int64_t c0,
                                                   int lanes,
                                                   float* __restrict__ sums) {  // [50][kWidth]
    const int64_t w = p.plane.w, image = tile.n * p.plane.h;
    const T* x_block = static_cast<const T*>(p.x) + c0;
    const T* dy_block = static_cast<const T*>(p.dy) + c0;
    for (int64_t y = tile.y_begin; y < tile.y_end; ++y) {
      const int begin = first_kernel_row(y), end = last_kernel_row(y, p.plane.h);
      for (int64_t x = tile.x_begin; x < tile.x_end; x += kStrip) {
        const typename InsideWindow<T>::Row outputs{dy_block + ((image + y) * w + x) * p.c, p.c};
        const InsideWindow<T> inside{x_block + ((image + y - kDwconvPad) * w + x - kDwconvPad) * p.c, w * p.c, p.c,
                                     begin, end};
        Strip<V, kStrip>::prefetch_below(inside);
        unroll<0, kStrip>([&](auto j) CNV2_LAMBDA { __builtin_prefetch(outputs.at(j.value) + w * p.c); });
        const int count = static_cast<int>(tile.x_end - x < kStrip ? tile.x_end - x : kStrip);
        if (x >= kDwconvPad && x + kStrip + kDwconvPad <= w && count == kStrip) {
          strip<kTail, kStrip>(inside, outputs, kStrip, lanes, sums);
        } else {
          const int first = static_cast<int>(x < kDwconvPad ? kDwconvPad - x : 0);
          const int last = static_cast<int>(x + count + kDwconvPad < w ? count + 2 * kDwconvPad : w - x + kDwconvPad);
          strip<kTail, kStrip>(EdgeWindow<T>{inside, first, last, begin, end}, outputs, count, lanes, sums);
        }
      }
    }
  }

  template <class T, bool kTail>
  static __attribute__((noinline)) void sparse_tile(const DwconvBackward& p, const TileSites& sites, int64_t c0,
                                                    int lanes,
                                                    float* __restrict__ sums) {  // [50][kWidth]
    for (int64_t k = 0; k < sites.count(); ++k) {
      const SiteStrip& s = sites.strip(k);
      with_length(s.length, [&](auto length) CNV2_LAMBDA {
        const auto window = sites.window(s, static_cast<const T*>(p.x) + c0);
        const auto outputs = sites.row(s, static_cast<const T*>(p.dy) + c0);
        strip<kTail, length.value>(window, outputs, s.count, lanes, sums);
      });
    }
  }

  // One task.
  template <class T>
  static void sum_slab(const DwconvBackward& p, const DwconvSumsTiling& t,
                       float* __restrict__ scratch,  // [t.scratch_floats]
                       int64_t slab, int64_t group) {
    const int64_t count = t.group_blocks * kDwconvSums * kWidth;
    float *totals = scratch, *sums = totals + count, *memory = sums + count;
    const int64_t c_begin = group * t.group_blocks * kWidth;
    const int64_t c_end = c_begin + t.group_blocks * kWidth < p.c ? c_begin + t.group_blocks * kWidth : p.c;
    for (int64_t i = 0; i < 2 * count; i += kWidth) V::zero().store(scratch + i);
    const auto each_block = [&](const auto& body) CNV2_LAMBDA {
      float* block = sums;
      for (int64_t c0 = c_begin; c0 < c_end; c0 += kWidth, block += kDwconvSums * kWidth) {
        if (c0 + kWidth <= c_end) {
          body(Index<0>{}, c0, kWidth, block);
        } else {
          body(Index<1>{}, c0, static_cast<int>(c_end - c0), block);
        }
      }
    };
    const int64_t last = (slab + 1) * t.tiles / t.slabs;
    int64_t sites_summed = 0;
    for (int64_t i = slab * t.tiles / t.slabs; i < last; ++i) {
      const TileBounds tile = TileBounds::of(p.plane, t, i);
      if (p.plane.map == nullptr) {
        each_block([&](auto tail, int64_t c0, int lanes, float* block)
                       CNV2_LAMBDA { dense_tile<T, tail.value != 0>(p, tile, c0, lanes, block); });
      } else {
        const TileSites sites(p.plane, t, tile, p.c, memory);
        each_block([&](auto tail, int64_t c0, int lanes, float* block)
                       CNV2_LAMBDA { sparse_tile<T, tail.value != 0>(p, sites, c0, lanes, block); });
      }
      sites_summed += t.rows * t.columns;
      if (sites_summed < kSitesAtLeast && i + 1 < last) continue;
      sites_summed = 0;
      for (int64_t k = 0; k < count; k += kWidth) {
        V::add(V::load(totals + k), V::load(sums + k)).store(totals + k);
        V::zero().store(sums + k);
      }
    }
    float* out = p.partial + slab * kDwconvSums * p.c;
    for (int64_t c0 = c_begin; c0 < c_end; c0 += kWidth) {
      const int lanes = static_cast<int>(c_end - c0 < kWidth ? c_end - c0 : kWidth);
      const float* total = totals + (c0 - c_begin) * kDwconvSums;
      for (int k = 0; k < kDwconvSums; ++k) {
        const int row = k == kDwconvTaps ? kDwconvTaps : k % kDwconvSide * kDwconvSide + k / kDwconvSide;
        V::load(total + k * kWidth).store(out + row * p.c + c0, lanes);
      }
    }
  }

  static void run(const DwconvBackward& p, const DwconvSumsTiling& t,
                  float* __restrict__ scratch,  // [t.scratch_floats]
                  int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slab = task / t.groups, group = task % t.groups;
      with_dtype(p.dtype, p.x, [&](auto* x) { sum_slab<StoredAs<decltype(x)>>(p, t, scratch, slab, group); });
    }
  }
};

}  // namespace
}  // namespace cnv2
