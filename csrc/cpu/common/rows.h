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

  // to += from, [count], which is a multiple of kWidth.
  static void add(float* __restrict__ to, const float* __restrict__ from, int64_t count) {
    for (int64_t c = 0; c < count; c += kWidth) V::add(V::load(to + c), V::load(from + c)).store(to + c);
  }
  // The sum of `parts` vectors [count] that follow each other, in the place of the first: in pairs, then pairs of
  // pairs, so that the error grows with the logarithm of their number.
  static void add_in_pairs(float* __restrict__ all, int64_t parts, int64_t count) {
    for (int64_t step = 1; step < parts; step *= 2) {
      for (int64_t i = 0; i + step < parts; i += 2 * step) add(all + i * count, all + (i + step) * count, count);
    }
  }

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

// Sums over rows are taken per slab, within it per run of kLeast rows so that no sum is long, and the slabs added in a
// fixed order: the result does not depend on the threads.
struct RowSlabs {
  static constexpr int64_t kLeast = 64, kMost = 64;  // rows of a slab and of a run; slabs
  int64_t rows, slab;
  explicit RowSlabs(int64_t total) : rows(total), slab((total + kMost - 1) / kMost) {
    slab = slab < kLeast ? kLeast : slab;
  }
  int64_t count() const { return (rows + slab - 1) / slab; }
  int64_t begin(int64_t i) const { return i * slab; }
  int64_t end(int64_t i) const { return (i + 1) * slab < rows ? (i + 1) * slab : rows; }

  // Calls body(first row, end) for the runs of slab i.
  template <class F>
  void each_run(int64_t i, const F& body) const {
    for (int64_t r = begin(i); r < end(i); r += kLeast) body(r, r + kLeast < end(i) ? r + kLeast : end(i));
  }
};

}  // namespace
}  // namespace cnv2
