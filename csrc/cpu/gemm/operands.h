// What the products of tiles.h multiply: words of 32 bits, each of kNumbers numbers that follow each other in the
// reduction. Rows of activations hold the numbers of kBlock columns in order; a row of a panel holds kBlock words, and
// a panel whole multiples of kWordsTogether rows. kSpacing: rows of a block lie so many of their own lengths apart.
#pragma once

#include <cstring>

#include "cpu/common/vec.h"

namespace cnv2 {
namespace {

template <class V>
struct PlainFloats {
  static constexpr int kNumbers = 1, kSpacing = 1;
  static constexpr int64_t kWordsTogether = 1;
  static constexpr int kVector = V::width;

  static CNV2_INLINE V fma(V a, V b, V sum) { return V::fma(a, b, sum); }

  // A row of activations, as two vectors of floats.
  static CNV2_INLINE void load(const float* row, V& low, V& high) { low = V::load(row), high = V::load(row + kVector); }
  static CNV2_INLINE void store(V low, V high, float* row) { low.store(row), high.store(row + kVector); }

  // A row of a panel: each of its numbers times its factor; and that added to the columns' sums.
  static CNV2_INLINE void scale(const float* __restrict__ row, const float* __restrict__ factors,
                                float* __restrict__ to) {
    const V s = V::set(*factors);
    V::mul(V::load(row), s).store(to);
    V::mul(V::load(row + kVector), s).store(to + kVector);
  }
  static CNV2_INLINE void add_scaled(const float* row, const float* factors, V& sum0, V& sum1) {
    const V s = V::set(*factors);
    sum0 = V::fma(s, V::load(row), sum0);
    sum1 = V::fma(s, V::load(row + kVector), sum1);
  }
};

#if defined(__AVX512BF16__)

// Two bfloat16, the first in the low half, in the place of a float.
struct BFloat16Pairs {
  static constexpr int kNumbers = 2, kSpacing = 1;
  static constexpr int64_t kWordsTogether = 1;
  static constexpr int kVector = Vec16::width;

  static CNV2_INLINE Vec16 fma(Vec16 a, Vec16 b, Vec16 sum) {
    return {_mm512_dpbf16_ps(sum.v, bits<__m512bh>(a.v), bits<__m512bh>(b.v))};
  }
  // The words of 32 numbers in order.
  static CNV2_INLINE Vec16 join(Vec16 low, Vec16 high) { return {bits<__m512>(_mm512_cvtne2ps_pbh(high.v, low.v))}; }

  // The words of 16 columns, from the numbers of one row and of the next.
  static CNV2_INLINE Vec16 pair(Vec16 row, Vec16 next) { return zip(join(row, next)); }
  // The same from rows of activations: the words of all 32 columns.
  static CNV2_INLINE void pair_rows(Vec16 row, Vec16 next, Vec16& low, Vec16& high) {
    const __m512i i = lane_numbers(), from_next = _mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(32)), 16);
    const __m512i order = _mm512_or_si512(i, from_next), half = _mm512_set1_epi32(16 << 16 | 16);
    const __m512i first = _mm512_castps_si512(row.v), second = _mm512_castps_si512(next.v);
    low.v = _mm512_castsi512_ps(_mm512_permutex2var_epi16(first, order, second));
    high.v = _mm512_castsi512_ps(_mm512_permutex2var_epi16(first, _mm512_add_epi32(order, half), second));
  }

  static CNV2_INLINE void load(const float* row, Vec16& low, Vec16& high) {
    low = Vec16::load(reinterpret_cast<const BFloat16*>(row));
    high = Vec16::load(reinterpret_cast<const BFloat16*>(row) + kVector);
  }
  static CNV2_INLINE void store(Vec16 low, Vec16 high, float* row) { join(low, high).store(row); }

  static CNV2_INLINE void scale(const float* __restrict__ row, const float* __restrict__ factors,
                                float* __restrict__ to) {
    const Vec16 s0 = Vec16::set(factors[0]), s1 = Vec16::set(factors[1]);
    unroll<0, 2>([&](auto half) CNV2_LAMBDA {
      const Vec16 words = Vec16::load(row + half.value * kVector);
      const Vec16 scaled = join(Vec16::mul(first(words), s0), Vec16::mul(second(words), s1));
      zip(scaled).store(to + half.value * kVector);
    });
  }
  static CNV2_INLINE void add_scaled(const float* row, const float* factors, Vec16& sum0, Vec16& sum1) {
    const Vec16 s0 = Vec16::set(factors[0]), s1 = Vec16::set(factors[1]);
    const Vec16 words0 = Vec16::load(row), words1 = Vec16::load(row + kVector);
    sum0 = Vec16::fma(s1, second(words0), Vec16::fma(s0, first(words0), sum0));
    sum1 = Vec16::fma(s1, second(words1), Vec16::fma(s0, first(words1), sum1));
  }

 private:
  template <class To, class From>
  static CNV2_INLINE To bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
  }
  static CNV2_INLINE Vec16 first(Vec16 words) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(words.v), 16))};
  }
  static CNV2_INLINE Vec16 second(Vec16 words) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(words.v), mask))};
  }
  static CNV2_INLINE __m512i lane_numbers() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  // From all first numbers, then all second ones, to pairs.
  static CNV2_INLINE Vec16 zip(Vec16 numbers) {
    const __m512i i = lane_numbers();
    const __m512i order = _mm512_or_si512(i, _mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(16)), 16));
    return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, _mm512_castps_si512(numbers.v)))};
  }
};

#endif

// The same words in rows twice as far apart: each is followed by a row of another matrix.
template <class Op>
struct Alternating : Op {
  static constexpr int kSpacing = 2;
};

}  // namespace
}  // namespace cnv2
