// What the CPU kernels over rows [T, C] share: vectors of channels with their tail, groups of rows, sums over rows in a
// fixed order. No framework header.
#pragma once

#include <cstdint>

#include "common/row_groups.h"
#include "cpu/common/dtype_switch.h"
#include "cpu/common/vec.h"

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

  // A vector of parameters [channels] as floats [padded(channels)], completed with zeros.
  static void widen(const ConstArray& v, int64_t channels, float* __restrict__ out) {
    with_dtype(v.dtype, v.data, [&](auto* data) {
      each(channels, [&](int64_t c, int lanes) CNV2_LAMBDA { load(data + c, lanes).store(out + c); });
    });
  }
};

// The number of the first row of a group; of group `count`, the number of all rows.
inline int64_t first_row(const RowGroups& groups, int64_t group) {
  return groups.offsets != nullptr ? groups.offsets[group] : group * groups.rows_per_group;
}

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
