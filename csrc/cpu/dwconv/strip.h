// Strips of neighbouring sites of one plane row, V::width channels wide, and the windows of input rows around them. All
// names have internal linkage, so that no two instruction sets' objects share a symbol.
//
// convolve: the strip's outputs stay in registers. For each of the seven kernel rows the seven taps are loaded once,
// and each input vector is loaded once and multiplied into every output it touches: (kStrip + 13) loads for 7 * kStrip
// multiply-adds. correlate, for the taps' gradients: the strip's output gradients stay in registers; per kernel row
// seven sums are loaded, and each input vector is multiplied with every output gradient it touches.
#pragma once

#include "cpu/common/unroll.h"
#include "cpu/common/vec.h"
#include "dwconv.h"

namespace cnv2 {
namespace {

// A window has kernel rows [begin, end), the others are absent; row(ky).has(i): is input column i there; row(ky).at(i):
// its first channel of the block. Column 0 is kDwconvPad left of the strip.

// Wholly inside a dense image's columns.
template <class T>
struct InsideWindow {
  const T* __restrict__ corner;  // row and column 0, which may lie outside: never read there
  int64_t row_stride, column_stride;
  int begin, end;

  struct Row {
    const T* first;
    int64_t stride;
    static CNV2_INLINE constexpr bool has(int) { return true; }
    CNV2_INLINE const T* at(int i) const { return first + i * stride; }
  };
  CNV2_INLINE Row row(int ky) const { return {corner + ky * row_stride, column_stride}; }
};

// Columns [first, last) are inside.
template <class T>
struct EdgeWindow {
  InsideWindow<T> whole;
  int first, last;
  int begin, end;

  struct Row : InsideWindow<T>::Row {
    int first_column, last_column;
    CNV2_INLINE bool has(int i) const { return i >= first_column && i < last_column; }
  };
  CNV2_INLINE Row row(int ky) const { return {whole.row(ky), first, last}; }
};

// Any sites: a table of their rows' offsets in x, -1 where inactive.
template <class T>
struct SiteWindow {
  const T* __restrict__ x;              // [T, C], from the block's first channel on
  const int64_t* __restrict__ offsets;  // [kDwconvSide][stride]
  int64_t stride;
  int begin, end;

  struct Row {
    const T* x;
    const int64_t* offsets;
    CNV2_INLINE bool has(int i) const { return offsets[i] >= 0; }
    CNV2_INLINE const T* at(int i) const { return x + offsets[i]; }
  };
  CNV2_INLINE Row row(int ky) const { return {x, offsets + ky * stride}; }
};

// Loads `lanes` channels; V::width of them unless kTail.
template <class V, bool kTail, class T>
CNV2_INLINE V load_block(const T* p, int lanes) {
  if constexpr (kTail) {
    return V::load(p, lanes);
  } else {
    return V::load(p);
  }
}

template <bool kTail, class V, class T>
CNV2_INLINE void store_block(V value, T* p, int lanes) {
  if constexpr (kTail) {
    value.store(p, lanes);
  } else {
    value.store(p);
  }
}

template <class V, int kStrip>
struct Strip {
  static constexpr int kWindow = kStrip + kDwconvSide - 1;  // input columns around a strip

  // Prefetches the input row that the strip below will need first.
  template <class T>
  static CNV2_INLINE void prefetch_below(const InsideWindow<T>& window) {
    const auto row = window.row(kDwconvSide);
    unroll<0, kStrip>([&](auto j) CNV2_LAMBDA { __builtin_prefetch(row.at(j.value + kDwconvPad)); });
  }

  // out[j] = the convolution at column j. `taps`: [ky][kx][V::width].
  template <bool kTail, class Window>
  static CNV2_INLINE void convolve(const Window& window, const float* __restrict__ taps, int lanes, V (&out)[kStrip]) {
    unroll<0, kStrip>([&](auto j) CNV2_LAMBDA { out[j.value] = V::zero(); });
    for (int ky = window.begin; ky < window.end; ++ky) {
      const auto row = window.row(ky);
      V tap[kDwconvSide];
      unroll<0, kDwconvSide>(
          [&](auto k) CNV2_LAMBDA { tap[k.value] = V::load(taps + (ky * kDwconvSide + k.value) * V::width); });
      unroll<0, kWindow>([&](auto i) CNV2_LAMBDA {
        if (!row.has(i.value)) return;
        const V in = load_block<V, kTail>(row.at(i.value), lanes);
        constexpr int first = i.value < kDwconvSide ? 0 : i.value - kDwconvSide + 1;
        constexpr int last = i.value < kStrip ? i.value : kStrip - 1;
        unroll<first, last + 1>([&](auto j)
                                    CNV2_LAMBDA { out[j.value] = V::fma(in, tap[i.value - j.value], out[j.value]); });
      });
    }
  }

  // sums[ky][kx][V::width] += the strip's part of the taps' gradients. `dy[j]`: the gradient of the output at column j.
  template <bool kTail, class Window>
  static CNV2_INLINE void correlate(const Window& window, const V (&dy)[kStrip], int lanes, float* __restrict__ sums) {
    for (int ky = window.begin; ky < window.end; ++ky) {
      const auto row = window.row(ky);
      float* row_sums = sums + ky * kDwconvSide * V::width;
      V sum[kDwconvSide];
      unroll<0, kDwconvSide>([&](auto k) CNV2_LAMBDA { sum[k.value] = V::load(row_sums + k.value * V::width); });
      unroll<0, kWindow>([&](auto i) CNV2_LAMBDA {
        if (!row.has(i.value)) return;
        const V in = load_block<V, kTail>(row.at(i.value), lanes);
        constexpr int first = i.value < kStrip ? 0 : i.value - kStrip + 1;
        constexpr int last = i.value < kDwconvSide ? i.value : kDwconvSide - 1;
        unroll<first, last + 1>([&](auto k)
                                    CNV2_LAMBDA { sum[k.value] = V::fma(in, dy[i.value - k.value], sum[k.value]); });
      });
      unroll<0, kDwconvSide>([&](auto k) CNV2_LAMBDA { sum[k.value].store(row_sums + k.value * V::width); });
    }
  }
};

}  // namespace
}  // namespace cnv2
