// The one source of the means over maps, a template over the vector type. All names have internal linkage.
#pragma once

#include "cpu/common/rows.h"
#include "mean.h"

namespace cnv2 {
namespace {

template <class V>
struct MeanKernel {
  using R = RowVectors<V>;
  static constexpr int kWidth = V::width;
  static constexpr int kVectors = 4;          // of channels at once, to hide the latency of the additions
  static constexpr int64_t kRun = 64;         // rows of one sum; the sums of runs are added to each other
  static constexpr int64_t kChannels = 1024;  // that a thread takes at a time

  static void forward(const MeanForward& p, const Parallel& parallel) {
    const int64_t parts = (p.c + kChannels - 1) / kChannels;
    parallel(0, p.n * parts, grain(p.rows * (p.c < kChannels ? p.c : kChannels)), [&](int64_t begin, int64_t end) {
      with_dtype(p.x.dtype, p.x.data, [&](auto* x) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t sample = i / parts, first = i % parts * kChannels;
          const int64_t count = p.c - first < kChannels ? p.c - first : kChannels;
          channels(p, x + sample * p.rows * p.c + first, count, p.y + sample * p.c + first);
        }
      });
    });
  }

 private:
  template <class T>
  static void channels(const MeanForward& p, const T* __restrict__ x,  // rows p.c apart
                       int64_t count,
                       float* __restrict__ y) {  // [count]
    int64_t c = 0;
    for (; c + kVectors * kWidth <= count; c += kVectors * kWidth) some<kVectors>(p, x + c, kWidth, y + c);
    for (; c < count; c += kWidth) {
      some<1>(p, x + c, static_cast<int>(count - c < kWidth ? count - c : kWidth), y + c);
    }
  }

  // kCount vectors of channels, the last of `lanes` lanes.
  template <int kCount, class T>
  static CNV2_INLINE void some(const MeanForward& p, const T* __restrict__ x, int lanes, float* __restrict__ y) {
    V all[kCount];
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA { all[i.value] = V::zero(); });
    for (int64_t first = 0; first < p.rows; first += kRun) {
      const int64_t last = first + kRun < p.rows ? first + kRun : p.rows;
      V sum[kCount];
      unroll<0, kCount>([&](auto i) CNV2_LAMBDA { sum[i.value] = V::zero(); });
      for (int64_t r = first; r < last; ++r) {
        unroll<0, kCount>([&](auto i) CNV2_LAMBDA {
          sum[i.value] = V::add(sum[i.value], R::load(x + r * p.c + i.value * kWidth, lanes));
        });
      }
      unroll<0, kCount>([&](auto i) CNV2_LAMBDA { all[i.value] = V::add(all[i.value], sum[i.value]); });
    }
    const V share = V::set(1.f / static_cast<float>(p.rows));
    unroll<0, kCount>([&](auto i) CNV2_LAMBDA { R::store(V::mul(all[i.value], share), y + i.value * kWidth, lanes); });
  }
};

}  // namespace
}  // namespace cnv2
