// On top of avx512_bf16_emulation.h: the tile registers of AMX and their products of bfloat16, as Intel's manual
// defines them. What the hardware refuses, or reads from tiles of another shape, ends the program.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CNV2_COUNTED_PRODUCTS 8192
#include "avx512_bf16_emulation.h"

namespace emulated {

struct Tile {
  int rows = 0, row_bytes = 0;
  float word[16][16] = {};
};

struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

inline thread_local Tile tiles[8];
inline thread_local bool tiles_shaped = false;

inline void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "AMX: %s\n", what);
  std::abort();
}

inline void tile_loadconfig(const void* memory) {
  TileConfig config;
  static_assert(sizeof(config) == 64, "as the instruction reads it");
  std::memcpy(&config, memory, sizeof(config));
  demand(config.palette == 1 && config.start_row == 0, "palette 1, no restart");
  for (uint8_t byte : config.reserved) demand(byte == 0, "reserved bytes are zero");
  for (int i = 0; i < 16; ++i) {
    demand(i < 8 ? config.rows[i] <= 16 && config.row_bytes[i] <= 64 : config.rows[i] + config.row_bytes[i] == 0,
           "eight tiles of at most 16 rows of 64 bytes");
    if (i >= 8) continue;
    tiles[i] = Tile{};
    tiles[i].rows = config.rows[i], tiles[i].row_bytes = config.row_bytes[i];
  }
  tiles_shaped = true;
}

inline void tile_release() { tiles_shaped = false; }

inline Tile& tile(int i) {
  demand(tiles_shaped && tiles[i].rows > 0 && tiles[i].row_bytes > 0, "a tile without a shape");
  return tiles[i];
}

inline void tile_loadd(int to, const void* from, int64_t stride) {
  Tile& t = tile(to);
  for (auto& row : t.word) std::memset(row, 0, sizeof(row));
  for (int r = 0; r < t.rows; ++r) std::memcpy(t.word[r], static_cast<const char*>(from) + r * stride, t.row_bytes);
}

inline void tile_stored(int from, void* to, int64_t stride) {
  const Tile& t = tile(from);
  for (int r = 0; r < t.rows; ++r) std::memcpy(static_cast<char*>(to) + r * stride, t.word[r], t.row_bytes);
}

// First and second numbers of the pairs are summed apart, then added to what was there.
inline void tile_dpbf16ps(int sum, int left, int right) {
  ++products;
  Tile& c = tile(sum);
  const Tile &a = tile(left), &b = tile(right);
  demand(c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows, "tiles that do not fit");
  float numbers[2][16][32];  // of a and b, widened
  for (int i = 0; i < 512; ++i) {
    const int row = i / 32, column = i % 32;
    const auto number = [&](const Tile& t) {
      return widened(static_cast<uint16_t>(bits<uint32_t>(t.word[row][column / 2]) >> 16 * (column % 2)));
    };
    numbers[0][row][column] = number(a), numbers[1][row][column] = number(b);
  }
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      float sums[2] = {};
      for (int k = 0; k < b.rows; ++k) {
        for (int half = 0; half < 2; ++half) {
          sums[half] = flushed(std::fma(numbers[0][m][2 * k + half], numbers[1][k][2 * n + half], sums[half]));
        }
      }
      c.word[m][n] = flushed(flushed(c.word[m][n]) + flushed(sums[0] + sums[1]));
    }
  }
}

}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated::tile_loadconfig
#define _tile_release emulated::tile_release
#define _tile_loadd emulated::tile_loadd
#define _tile_stored emulated::tile_stored
#define _tile_dpbf16ps emulated::tile_dpbf16ps

#define __AMX_BF16__ 1
