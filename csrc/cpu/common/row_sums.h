// What the CPU kernels over rows [T, C] share: vectors of channels with their tail, sums over rows in a fixed order.
#pragma once

#include <cstring>

#include "cpu/common/scratch.h"
#include "cpu/gemm/gemm.h"

namespace cnv2 {
namespace {

template <class V>
struct RowVectors {
  static constexpr int kWidth = V::width;

  // Calls body(channel, lanes) for vectors of channels; all have V::width lanes but perhaps the last.
  template <class F>
  static CNV2_INLINE void each(int64_t channels, const F& body) {
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) body(c, kWidth);
    if (c < channels) body(c, static_cast<int>(channels - c));
  }
  template <class T>
  static CNV2_INLINE V load(const T* p, int lanes) {
    return lanes == kWidth ? V::load(p) : V::load(p, lanes);
  }
  template <class T>
  static CNV2_INLINE void store(V v, T* p, int lanes) {
    lanes == kWidth ? v.store(p) : v.store(p, lanes);
  }
  static int64_t padded(int64_t channels) { return (channels + kWidth - 1) / kWidth * kWidth; }
};

// Sums over rows are taken per slab and the slabs added in order: the result does not depend on the threads.
struct RowSlabs {
  static constexpr int64_t kLeast = 64, kMost = 64;  // rows of a slab, slabs
  int64_t rows, slab;
  explicit RowSlabs(int64_t total) : rows(total), slab((total + kMost - 1) / kMost) {
    slab = slab < kLeast ? kLeast : slab;
  }
  int64_t count() const { return (rows + slab - 1) / slab; }
  int64_t begin(int64_t i) const { return i * slab; }
  int64_t end(int64_t i) const { return (i + 1) * slab < rows ? (i + 1) * slab : rows; }
};

}  // namespace
}  // namespace cnv2
