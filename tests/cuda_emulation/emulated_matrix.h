// The warp's matrix instructions, fragment by fragment as the PTX manual lays them out.
#pragma once

#include "emulated_intrinsics.h"

namespace cuda_emulation {

// ldmatrix: row r of matrix m is the 16 bytes that lane 8 m + r points to. Each lane's row is read when the lane
// arrives, so that one which another lane has yet to write, with no __syncwarp between, shows.
inline void load_matrix_x4(unsigned (&out)[4], const void* row, bool transposed,
                           const Site& site = Site("load_matrix_x4")) {
  if (!running.is_shared(row, 16)) running.fail(site.text() + ": the row is not in the block's shared memory");
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) running.fail(site.text() + ": the row is not aligned to 16 bytes");
  const Slot* const slots = running.exchange(row, 16, ~0u, site);
  const unsigned major = lane() / 4, minor = lane() % 4 * 2;
  for (unsigned m = 0; m < 4; ++m) {
    out[m] = 0;
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned r = transposed ? minor + i : major, column = transposed ? major : minor + i;
      out[m] |= unsigned{bits_as<uint16_t>(slots[8 * m + r].bytes + 2 * column)} << 16 * i;
    }
  }
}

// mma.m16n8k16, d += a b, with the halves of the operands' registers already float32, low half first. Sums in float32
// in the order of k; the hardware has an order of its own.
inline void mma_m16n8k16(float (&d)[4], const float (&a)[8], const float (&b)[4], const Site& site) {
  float mine[12];
  std::memcpy(mine, a, sizeof(a));
  std::memcpy(mine + 8, b, sizeof(b));
  const Slot* const slots = running.exchange(mine, sizeof(mine), ~0u, site);
  const unsigned group = lane() / 4, in_group = lane() % 4;
  for (unsigned k = 0; k < 16; ++k) {
    const unsigned owner = k % 8 / 2, half = k % 2;
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned column = 2 * in_group + i % 2;
      const auto* const from_a = slots[4 * group + owner].bytes + sizeof(float) * (2 * (i / 2 + k / 8 * 2) + half);
      const auto* const from_b = slots[4 * column + owner].bytes + sizeof(float) * (8 + 2 * (k / 8) + half);
      d[i] += bits_as<float>(from_a) * bits_as<float>(from_b);
    }
  }
}

}  // namespace cuda_emulation
