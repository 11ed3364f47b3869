// The active sites of one tile of a sparse plane, cut into strips. Internal linkage throughout.
#pragma once

#include "cpu/common/unroll.h"
#include "strip.h"

namespace cnv2 {
namespace {

CNV2_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The kernel rows that fall inside an image of `h` rows around its row y.
CNV2_INLINE int first_kernel_row(int64_t y) { return static_cast<int>(y < kDwconvPad ? kDwconvPad - y : 0); }
CNV2_INLINE int last_kernel_row(int64_t y, int64_t h) {
  return static_cast<int>(h + kDwconvPad - y < kDwconvSide ? h + kDwconvPad - y : kDwconvSide);
}

struct TileBounds {
  int64_t n, y_begin, y_end, x_begin, x_end;

  CNV2_INLINE static TileBounds of(const DwconvPlane& plane, const DwconvTiles& t, int64_t tile) {
    TileBounds b;
    b.n = tile / t.tiles_x / t.tiles_y;
    b.y_begin = tile / t.tiles_x % t.tiles_y * t.rows;
    b.x_begin = tile % t.tiles_x * t.columns;
    b.y_end = b.y_begin + t.rows < plane.h ? b.y_begin + t.rows : plane.h;
    b.x_end = b.x_begin + t.columns < plane.w ? b.x_begin + t.columns : plane.w;
    return b;
  }
};

struct SiteStrip {
  int y, x;    // of its first site, from the tile's corner
  int length;  // 1, 2, 4 or 8 columns
  int count;   // columns inside the tile
};

class TileSites {
 public:
  static constexpr int kLongest = 8;

  static CNV2_INLINE int64_t floats(const DwconvTiles& t) {
    const int64_t table = (t.rows + 2 * kDwconvPad) * stride_of(t.columns) * static_cast<int64_t>(sizeof(int64_t));
    return ceil_div(table + t.rows * t.columns * static_cast<int64_t>(sizeof(SiteStrip)), 64) * 16;  // whole lines
  }

  // `memory`: floats(t) of them. `c`: elements between rows.
  CNV2_INLINE TileSites(const DwconvPlane& plane, const DwconvTiles& t, const TileBounds& tile, int64_t c,
                        float* memory)
      : tile_(tile), h_(plane.h), stride_(stride_of(t.columns)), table_(reinterpret_cast<int64_t*>(memory)) {
    strips_ = reinterpret_cast<SiteStrip*>(table_ + (t.rows + 2 * kDwconvPad) * stride_);
    const int* image = plane.map + tile.n * plane.h * plane.w;
    const int64_t rows = tile.y_end - tile.y_begin + 2 * kDwconvPad;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t y = tile.y_begin + r - kDwconvPad, x0 = tile.x_begin - kDwconvPad;
      int64_t* row = table_ + r * stride_;
      for (int64_t i = 0; i < stride_; ++i) {
        const bool inside = y >= 0 && y < plane.h && x0 + i >= 0 && x0 + i < plane.w;
        const int site = inside ? image[y * plane.w + x0 + i] : -1;
        row[i] = site < 0 ? -1 : site * c;
      }
    }
    for (int64_t y = 0; y < tile.y_end - tile.y_begin; ++y) {
      const int64_t columns = tile.x_end - tile.x_begin;
      for (int64_t x = 0; x < columns;) {
        if (offset(y, x) < 0) {
          ++x;
          continue;
        }
        const int64_t left = columns - x;
        const int length = best_length(table_ + (y + kDwconvPad) * stride_ + x + kDwconvPad, left);
        strips_[count_++] = {static_cast<int>(y), static_cast<int>(x), length,
                             static_cast<int>(left < length ? left : length)};
        x += length;
      }
    }
  }

  CNV2_INLINE int64_t count() const { return count_; }
  CNV2_INLINE const SiteStrip& strip(int64_t i) const { return strips_[i]; }
  // The offset of the row of a site, in elements; -1 for an inactive site.
  CNV2_INLINE int64_t offset(int64_t y, int64_t x) const { return table_[(y + kDwconvPad) * stride_ + x + kDwconvPad]; }
  template <class T>
  CNV2_INLINE SiteWindow<T> window(const SiteStrip& s, const T* x) const {
    const int64_t y = tile_.y_begin + s.y;
    return {x, table_ + s.y * stride_ + s.x, stride_, first_kernel_row(y), last_kernel_row(y, h_)};
  }
  // The strip's own sites in a tensor with the layout of x.
  template <class T>
  CNV2_INLINE typename SiteWindow<T>::Row row(const SiteStrip& s, const T* x) const {
    return {x, table_ + (s.y + kDwconvPad) * stride_ + s.x + kDwconvPad};
  }

 private:
  static CNV2_INLINE int64_t stride_of(int64_t columns) { return columns + 2 * kDwconvPad + kLongest - 1; }

  // The length for a strip that starts at an active site: the one with the least work per active site covered.
  static CNV2_INLINE int best_length(const int64_t* offsets, int64_t left) {
    constexpr int kWork[4] = {10, 12, 18, 28};  // loads or multiply-adds, whichever take longer, of 1, 2, 4, 8 columns
    int best = 0, best_active = 1, active = 0;
    for (int choice = 0, x = 0; choice < 4; ++choice) {
      for (; x < (1 << choice) && x < left; ++x) active += offsets[x] >= 0;
      if (kWork[choice] * best_active < kWork[best] * active) {
        best = choice;
        best_active = active;
      }
    }
    return 1 << best;
  }

  TileBounds tile_;
  int64_t h_, stride_, count_ = 0;
  int64_t* table_;     // [rows + 6][stride_]: offset of each site's row of the tile and what its windows reach beyond
  SiteStrip* strips_;  // [count_]
};

// Calls body(Index<length>).
template <class F>
CNV2_INLINE void with_length(int length, const F& body) {
  switch (length) {
    case 1:
      return body(Index<1>{});
    case 2:
      return body(Index<2>{});
    case 4:
      return body(Index<4>{});
    default:
      return body(Index<8>{});
  }
}

}  // namespace
}  // namespace cnv2
