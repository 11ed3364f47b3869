// Between row-major tensors and the layouts of tiles.h. Columns that complete a block are zero.
#pragma once

#include <cstdint>

#include "tiles.h"
#include "transpose.h"

namespace cnv2 {
namespace {

template <class V, class Op = PlainFloats<V>>
struct Pack {
  using Layout = TileLayout<V, Op>;
  static constexpr int kVector = Layout::kVector, kBlock = Layout::kBlock, kWords = Layout::kWords;

  // `lanes` floats from p, at most a vector's; none if that is negative.
  template <class T>
  static CNV2_INLINE V load(const T* p, int64_t lanes) {
    return lanes >= kVector ? V::load(p) : lanes > 0 ? V::load(p, static_cast<int>(lanes)) : V::zero();
  }

  // The words of `lanes` numbers from p, at most a vector's.
  template <class T>
  static CNV2_INLINE V load_words(const T* p, int64_t lanes) {
    if constexpr (Op::kNumbers == 1) {
      return load(p, lanes);
    } else {
      return Op::join(load(p, lanes), load(p + kVector, lanes - kVector));
    }
  }

  // Rows [0, rows) of src [rows][columns] to blocked form; `stride` words from one column block to the next.
  template <class T>
  static void rows(const T* __restrict__ src, int64_t rows, int64_t columns, float* __restrict__ out, int64_t stride) {
    for (int64_t r = 0; r < rows; ++r, src += columns, out += kWords) {
      float* to = out;
      for (int64_t c = 0; c < columns; c += kBlock, to += stride) {
        Op::store(load(src + c, columns - c), load(src + c + kVector, columns - c - kVector), to);
      }
    }
  }

  // The sums over the rows of src, of a block of its columns.
  template <class T>
  static void column_sums(const T* __restrict__ src, int64_t rows, int64_t stride, int64_t columns,
                          float* __restrict__ out) {  // [kBlock]
    V sum0 = V::zero(), sum1 = V::zero();
    for (int64_t r = 0; r < rows; ++r, src += stride) {
      sum0 = V::add(sum0, load(src, columns));
      sum1 = V::add(sum1, load(src + kVector, columns - kVector));
    }
    sum0.store(out);
    sum1.store(out + kVector);
  }

  // Panel j of a weight [k][n] whose first index is the reduction's.
  template <class T>
  static void panel(const T* __restrict__ w, int64_t k, int64_t n, int64_t j,
                    float* __restrict__ out) {  // [words(k)][kBlock]
    const int64_t c = j * kBlock;
    w += c;
    if constexpr (Op::kNumbers == 1) {
      for (int64_t i = 0; i < k; ++i, w += n, out += kBlock) {
        load(w, n - c).store(out);
        load(w + kVector, n - c - kVector).store(out + kVector);
      }
    } else {
      for (int64_t i = 0; i < 2 * Layout::words(k); i += 2, w += 2 * n, out += kBlock) {
        V low, high;
        Op::pair_rows(i < k ? load_words(w, n - c) : V::zero(), i + 1 < k ? load_words(w + n, n - c) : V::zero(), low,
                      high);
        low.store(out);
        high.store(out + kVector);
      }
    }
  }

  // Panel j of a weight [n][k], as torch.nn.Linear has it: transposed on the way.
  template <class T>
  static void panel_transposed(const T* __restrict__ w, int64_t n, int64_t k, int64_t j,
                               float* __restrict__ out) {  // [words(k)][kBlock]
    constexpr int kStep = kVector * Op::kNumbers;
    const int64_t words = Layout::words(k);
    for (int64_t i = 0; i < k; i += kStep, out += kVector * kBlock) {
      const int64_t depth = k - i < kStep ? k - i : kStep;
      unroll<0, 2>([&](auto half) CNV2_LAMBDA {
        const int64_t first = j * kBlock + half.value * kVector;
        V square[kVector];
        unroll<0, kVector>([&](auto r) CNV2_LAMBDA {
          square[r.value] = first + r.value < n ? load_words(w + (first + r.value) * k + i, depth) : V::zero();
        });
        transpose(square);
        unroll<0, kVector>([&](auto r) CNV2_LAMBDA {
          if (i / Op::kNumbers + r.value < words) square[r.value].store(out + r.value * kBlock + half.value * kVector);
        });
      });
    }
  }

  // A vector [n], completed to whole blocks.
  template <class T>
  static void vector(const T* __restrict__ v, int64_t n, float* __restrict__ out) {
    for (int64_t i = 0; i < Layout::blocks(n) * kBlock; i += kVector) load(v + i, n - i).store(out + i);
  }
};

}  // namespace
}  // namespace cnv2
