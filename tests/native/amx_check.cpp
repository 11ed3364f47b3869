// The emulated product of tiles against the processor's own, bit for bit, denormals included. Prints "N numbers, M
// differ".
#include <immintrin.h>

#include <cstdint>
#include <random>

#include "cpu/common/cpu_features.h"

namespace {

// c += a b, tiles of 16 rows of 64 bytes.
__attribute__((target("amx-tile,amx-bf16"))) void on_hardware(const void* config, const void* a, const void* b,
                                                              void* c) {
  _tile_loadconfig(config);
  _tile_loadd(0, c, 64);
  _tile_loadd(4, a, 64);
  _tile_loadd(6, b, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_stored(0, c, 64);
  _tile_release();
}

}  // namespace

#include "amx_emulation.h"

int main() {
  if (cnv2::detect_cpu_isa() < cnv2::CpuIsa::kAmx) return 1;
  alignas(64) emulated::TileConfig config{};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  int numbers = 0, differ = 0;
  for (const float scale : {1.f, 1e-19f, 1e-30f}) {  // products that are normal, some of them, and none
    for (int trial = 0; trial < 1000; ++trial) {
      alignas(64) uint16_t a[16][32], b[16][32];
      alignas(64) float c[16][16], d[16][16];
      for (auto* matrix : {a, b}) {
        for (int i = 0; i < 512; ++i) matrix[i / 32][i % 32] = emulated::narrowed(scale * uniform(random));
      }
      for (int i = 0; i < 256; ++i) c[i / 16][i % 16] = scale * scale * uniform(random);
      std::memcpy(d, c, sizeof(d));
      on_hardware(&config, a, b, c);
      emulated::tile_loadconfig(&config);
      emulated::tile_loadd(0, d, 64);
      emulated::tile_loadd(4, a, 64);
      emulated::tile_loadd(6, b, 64);
      emulated::tile_dpbf16ps(0, 4, 6);
      emulated::tile_stored(0, d, 64);
      for (int i = 0; i < 256; ++i, ++numbers) {
        differ += std::memcmp(&c[i / 16][i % 16], &d[i / 16][i % 16], sizeof(float)) != 0;
      }
    }
  }
  std::printf("%d numbers, %d differ\n", numbers, differ);
  return differ != 0;
}
