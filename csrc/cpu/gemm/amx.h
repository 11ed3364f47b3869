// The register tiles of products of bfloat16 pairs on CPUs with AMX: 32 x 32 results in four of the eight tiles, two
// tiles of each operand. The layouts are those of tiles.h: 16 rows of a block of activations are a tile as they lie,
// and so are 16 words by 16 columns of a panel. Words are counted in whole tiles, completed with zeros.
#pragma once

#include "tiles.h"

#if defined(__AMX_BF16__)

namespace cnv2 {
namespace {

// BFloat16Pairs, multiplied by tiles.
struct BFloat16Tiles : BFloat16Pairs {
  static constexpr int64_t kWordsTogether = 16;
};

template <int kRows, class Op>
struct AmxTiles : TileLayout<Vec16, Op> {
  static_assert(kRows == 32, "two tiles of 16 rows");
  using Layout = TileLayout<Vec16, Op>;
  using Layout::kBlock, Layout::kLine, Layout::kRow, Layout::kVector, Layout::kWords;
  using typename Layout::Product;

  static constexpr int kMaxRows = kRows, kNarrowRows = kRows;  // none are narrow

  // This thread's tiles, shaped for a number of rows.
  class Registers {
   public:
    Registers() = default;
    Registers(const Registers&) = delete;
    Registers& operator=(const Registers&) = delete;
    ~Registers() {
      if (rows_ > 0) _tile_release();
    }

    // The same interface as Tiles in tiles.h.
    void product(const Product& p, int rows) {
      if (rows != rows_) shape(rows);
      rows > kHalf ? multiply<true>(p) : multiply<false>(p);
    }
    void narrow_product(const Product& p) { product(p, kRows); }

   private:
    static constexpr int kHalf = 16, kLineBytes = 64, kRowBytes = kRow * 4, kBlockBytes = kBlock * 4;
    static constexpr int kUpper = kHalf * kBlock;  // floats of c's upper rows

    // Tiles 0, 1: upper rows of c; 2, 3: lower ones; 4, 5: rows of a, upper and lower; 6, 7: b.
    void shape(int rows) {
      struct alignas(64) {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
      } config{};
      static_assert(sizeof(config) == 64, "as the instruction reads it");
      config.palette = 1;
      const int upper = rows < kHalf ? rows : kHalf, lower = rows > kHalf ? rows - kHalf : 1;
      for (int i = 0; i < 8; ++i) {
        config.row_bytes[i] = kLineBytes;
        config.rows[i] = static_cast<uint8_t>(i >= 6 ? kHalf : i == 2 || i == 3 || i == 5 ? lower : upper);
      }
      _tile_loadconfig(&config);
      rows_ = rows;
    }

    template <bool kLower>
    static void multiply(const Product& p) {
      if (p.start != nullptr) {
        load<kLower>(p.start, 0, 0);
      } else {
        load<kLower>(p.c, kBlockBytes, kUpper);
      }
      const int64_t tiles = p.k / kWords, next_lines = (kLower ? 2 : 1) * kUpper / kLine / tiles + 1,
                    ahead_lines = (p.ahead_lines + tiles - 1) / tiles;
      const float *a = p.a, *b = p.b, *next = p.next, *ahead = p.ahead;
      for (int64_t t = 0; t < tiles; ++t, a += p.a_stride, b += kWords * kBlock) {
        _tile_loadd(6, b, kBlockBytes);
        _tile_loadd(4, a, kRowBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + kVector, kBlockBytes);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (kLower) {
          _tile_loadd(5, a + kHalf * kRow, kRowBytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        for (int64_t i = 0; i < next_lines; ++i, next += kLine) __builtin_prefetch(next, 1, 3);
        for (int64_t i = 0; i < ahead_lines; ++i, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
      }
      _tile_stored(0, p.c, kBlockBytes);
      _tile_stored(1, p.c + kVector, kBlockBytes);
      if constexpr (kLower) {
        _tile_stored(2, p.c + kUpper, kBlockBytes);
        _tile_stored(3, p.c + kUpper + kVector, kBlockBytes);
      }
    }

    // c's tiles, rows `stride` bytes apart, the lower ones `lower` floats on.
    template <bool kLower>
    static void load(const float* __restrict__ from, int64_t stride, int64_t lower) {
      _tile_loadd(0, from, stride);
      _tile_loadd(1, from + kVector, stride);
      if constexpr (kLower) {
        _tile_loadd(2, from + lower, stride);
        _tile_loadd(3, from + lower + kVector, stride);
      }
    }

    int rows_ = 0;
  };
};

template <int kRows>
struct Tiles<Vec16, kRows, BFloat16Tiles> : AmxTiles<kRows, BFloat16Tiles> {};
template <int kRows>
struct Tiles<Vec16, kRows, Alternating<BFloat16Tiles>> : AmxTiles<kRows, Alternating<BFloat16Tiles>> {};

}  // namespace
}  // namespace cnv2

#endif
