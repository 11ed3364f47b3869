// Lets the AVX-512 vectors of vec.h compile and run on any machine with AVX2: each 512-bit intrinsic that they use, on
// sixteen lanes in memory, as Intel's guide defines it. For -include, without -mavx512*.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

struct m512 {
  float lane[16];
};

struct m512i {
  uint32_t lane[16];
};

template <class To, class From>
To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class Vector, class Lane>
Vector all(Lane value) {
  Vector out;
  for (auto& lane : out.lane) lane = value;
  return out;
}

template <class Vector, class F>
Vector lanes(const F& lane) {
  Vector out;
  for (int i = 0; i < 16; ++i) out.lane[i] = lane(i);
  return out;
}

struct U16x16 {
  uint16_t lane[16];
};

inline m512 setzero_ps() { return all<m512>(0.0f); }
inline m512 set1_ps(float a) { return all<m512>(a); }
inline m512i set1_epi32(int a) { return all<m512i>(static_cast<uint32_t>(a)); }
inline m512 castsi512_ps(m512i a) { return bits<m512>(a); }
inline m512i castps_si512(m512 a) { return bits<m512i>(a); }

inline m512 add_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline m512 sub_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline m512 mul_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline m512 fmadd_ps(m512 a, m512 b, m512 c) {
  return lanes<m512>([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
// The second operand where either is NaN.
inline m512 min_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline m512 max_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
template <int kMode>
m512 roundscale_ps(m512 a) {
  static_assert(kMode == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), "not emulated");
  return lanes<m512>([&](int i) { return std::nearbyint(a.lane[i]); });
}
template <int kMode>
m512 reduce_ps(m512 a) {
  static_assert(kMode == (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), "not emulated");
  return lanes<m512>([&](int i) { return std::isinf(a.lane[i]) ? 0.0f : a.lane[i] - std::floor(a.lane[i]); });
}
inline m512 scalef_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return a.lane[i] * std::exp2(std::floor(b.lane[i])); });
}
// The manual bounds the relative error by 2^-14; this is off by almost that.
inline m512 rcp14_ps(m512 a) {
  return lanes<m512>([&](int i) { return (1.0f + 6e-5f) / a.lane[i]; });
}
inline m512i cvtps_epi32(m512 a) {
  return lanes<m512i>([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(std::nearbyint(a.lane[i]))); });
}

// Per group of four lanes: the two low or high ones of both, alternating.
inline m512 unpacklo_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return (i % 2 ? b : a).lane[i / 4 * 4 + i % 4 / 2]; });
}
inline m512 unpackhi_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return (i % 2 ? b : a).lane[i / 4 * 4 + i % 4 / 2 + 2]; });
}
// Per group of four lanes: two of a's, then two of b's.
template <int kOrder>
m512 shuffle_ps(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return (i % 4 < 2 ? a : b).lane[i / 4 * 4 + (kOrder >> (i % 4 * 2) & 3)]; });
}
// Two groups of four lanes of a's, then two of b's.
template <int kOrder>
m512 shuffle_f32x4(m512 a, m512 b) {
  return lanes<m512>([&](int i) { return (i < 8 ? a : b).lane[(kOrder >> (i / 4 * 2) & 3) * 4 + i % 4]; });
}

inline float reduce_add_ps(m512 a) {
  float total = 0.0f;
  for (float lane : a.lane) total += lane;
  return total;
}

inline m512i add_epi32(m512i a, m512i b) {
  return lanes<m512i>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline m512i and_si512(m512i a, m512i b) {
  return lanes<m512i>([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline m512i or_si512(m512i a, m512i b) {
  return lanes<m512i>([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline m512i slli_epi32(m512i a, unsigned count) {
  return lanes<m512i>([&](int i) { return a.lane[i] << count; });
}
inline m512i srli_epi32(m512i a, unsigned count) {
  return lanes<m512i>([&](int i) { return a.lane[i] >> count; });
}

// Of the comparisons only "unordered", which is true where either side is NaN.
template <int kPredicate>
__mmask16 cmp_ps_mask(m512 a, m512 b) {
  static_assert(kPredicate == _CMP_UNORD_Q, "not emulated");
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<unsigned>(std::isnan(a.lane[i]) || std::isnan(b.lane[i])) << i;
  return static_cast<__mmask16>(mask);
}
inline m512i mask_mov_epi32(m512i otherwise, __mmask16 mask, m512i a) {
  return lanes<m512i>([&](int i) { return mask >> i & 1 ? a.lane[i] : otherwise.lane[i]; });
}
inline m512 maskz_mov_ps(__mmask16 mask, m512 a) {
  return lanes<m512>([&](int i) { return mask >> i & 1 ? a.lane[i] : 0.0f; });
}

// Lanes whose bit is not set are not touched in memory; loaded, they are zero.
template <class Vector, class Lane>
Vector maskz_loadu(__mmask16 mask, const void* from) {
  Lane in[16] = {};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(&in[i], static_cast<const Lane*>(from) + i, sizeof(Lane));
  }
  return bits<Vector>(in);
}
template <class Vector, class Lane>
void mask_storeu(void* to, __mmask16 mask, Vector value) {
  Lane out[16];
  std::memcpy(out, &value, sizeof(out));
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<Lane*>(to) + i, &out[i], sizeof(Lane));
  }
}
inline m512 loadu_ps(const float* from) { return maskz_loadu<m512, float>(0xffff, from); }
inline void storeu_ps(float* to, m512 a) { mask_storeu<m512, float>(to, 0xffff, a); }

inline m512i cvtepu16_epi32(__m256i a) {
  const auto narrow = bits<U16x16>(a);
  return lanes<m512i>([&](int i) { return uint32_t{narrow.lane[i]}; });
}
inline __m256i cvtepi32_epi16(m512i a) {
  return bits<__m256i>(lanes<U16x16>([&](int i) { return static_cast<uint16_t>(a.lane[i]); }));
}
inline m512 cvtph_ps(__m256i a) {
  const auto half = bits<U16x16>(a);
  return lanes<m512>([&](int i) { return _cvtsh_ss(half.lane[i]); });
}
template <int kRounding>
__m256i cvtps_ph(m512 a) {
  return bits<__m256i>(lanes<U16x16>([&](int i) { return _cvtss_sh(a.lane[i], kRounding); }));
}

}  // namespace emulated

#define __m512 emulated::m512
#define __m512i emulated::m512i
#define _mm512_setzero_ps emulated::setzero_ps
#define _mm512_set1_ps emulated::set1_ps
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_castsi512_ps emulated::castsi512_ps
#define _mm512_castps_si512 emulated::castps_si512
#define _mm512_add_ps emulated::add_ps
#define _mm512_sub_ps emulated::sub_ps
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_min_ps emulated::min_ps
#define _mm512_max_ps emulated::max_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(a, mode) emulated::roundscale_ps<mode>(a)
#undef _mm512_reduce_ps
#define _mm512_reduce_ps(a, mode) emulated::reduce_ps<mode>(a)
#define _mm512_scalef_ps emulated::scalef_ps
#define _mm512_rcp14_ps emulated::rcp14_ps
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_unpacklo_ps emulated::unpacklo_ps
#define _mm512_unpackhi_ps emulated::unpackhi_ps
#undef _mm512_shuffle_ps
#define _mm512_shuffle_ps(a, b, order) emulated::shuffle_ps<order>(a, b)
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, order) emulated::shuffle_f32x4<order>(a, b)
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_and_si512 emulated::and_si512
#define _mm512_or_si512 emulated::or_si512
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_srli_epi32 emulated::srli_epi32
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask(a, b, predicate) emulated::cmp_ps_mask<predicate>(a, b)
#define _mm512_mask_mov_epi32 emulated::mask_mov_epi32
#define _mm512_maskz_mov_ps emulated::maskz_mov_ps
#define _mm512_loadu_ps emulated::loadu_ps
#define _mm512_storeu_ps emulated::storeu_ps
#define _mm512_maskz_loadu_ps emulated::maskz_loadu<emulated::m512, float>
#define _mm512_mask_storeu_ps emulated::mask_storeu<emulated::m512, float>
#define _mm256_maskz_loadu_epi16 emulated::maskz_loadu<__m256i, uint16_t>
#define _mm256_mask_storeu_epi16 emulated::mask_storeu<__m256i, uint16_t>
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#define _mm512_cvtph_ps emulated::cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, rounding) emulated::cvtps_ph<rounding>(a)

// What vec.h asks the compiler for.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1
