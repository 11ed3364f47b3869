// Lets the AVX-512 vectors of vec.h compile and run on any machine with AVX2, through the SIMDe headers' plain C++
// versions of the intrinsics, and the versions below of those that SIMDe 0.7 lacks. For -include, without -mavx512*.
#pragma once

#include <cstring>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

namespace emulated {

template <class Wide, class Half>
Wide join(Half low, Half high) {
  const Half halves[2] = {low, high};
  Wide out;
  std::memcpy(&out, halves, sizeof(out));
  return out;
}

template <class Half, class Wide>
Half half(Wide a, int which) {
  Half halves[2];
  std::memcpy(halves, &a, sizeof(halves));
  return halves[which];
}

// Lanes whose mask bit is not set are not read, and become zero.
template <class Vector, class Lane>
Vector masked_load(unsigned mask, const void* from) {
  Lane lanes[sizeof(Vector) / sizeof(Lane)] = {};
  for (size_t i = 0; i < sizeof(Vector) / sizeof(Lane); ++i) {
    if (mask >> i & 1u) std::memcpy(&lanes[i], static_cast<const Lane*>(from) + i, sizeof(Lane));
  }
  Vector out;
  std::memcpy(&out, lanes, sizeof(out));
  return out;
}

template <class Lane, class Vector>
void masked_store(void* to, unsigned mask, Vector value) {
  Lane lanes[sizeof(Vector) / sizeof(Lane)];
  std::memcpy(lanes, &value, sizeof(value));
  for (size_t i = 0; i < sizeof(Vector) / sizeof(Lane); ++i) {
    if (mask >> i & 1u) std::memcpy(static_cast<Lane*>(to) + i, &lanes[i], sizeof(Lane));
  }
}

inline simde__m512i cvtepu16_epi32(__m256i a) {
  return join<simde__m512i>(_mm256_cvtepu16_epi32(half<__m128i>(a, 0)), _mm256_cvtepu16_epi32(half<__m128i>(a, 1)));
}

inline simde__m512 cvtph_ps(__m256i a) {
  return join<simde__m512>(_mm256_cvtph_ps(half<__m128i>(a, 0)), _mm256_cvtph_ps(half<__m128i>(a, 1)));
}

template <int kRounding>
__m256i cvtps_ph(simde__m512 a) {
  return join<__m256i>(_mm256_cvtps_ph(half<__m256>(a, 0), kRounding), _mm256_cvtps_ph(half<__m256>(a, 1), kRounding));
}

inline __m256i cvtepi32_epi16(simde__m512i a) {
  uint32_t wide[16];
  uint16_t narrow[16];
  std::memcpy(wide, &a, sizeof(wide));
  for (int i = 0; i < 16; ++i) narrow[i] = static_cast<uint16_t>(wide[i]);
  __m256i out;
  std::memcpy(&out, narrow, sizeof(out));
  return out;
}

inline float reduce_add_ps(simde__m512 a) {
  float lanes[16], total = 0.0f;
  std::memcpy(lanes, &a, sizeof(lanes));
  for (float lane : lanes) total += lane;
  return total;
}

}  // namespace emulated

#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtepi32_epi16
#undef _mm512_reduce_add_ps
#undef _mm512_maskz_loadu_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm512_mask_storeu_ps
#undef _mm256_mask_storeu_epi16
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_cvtps_ph(a, rounding) emulated::cvtps_ph<rounding>(a)
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_maskz_loadu_ps emulated::masked_load<simde__m512, float>
#define _mm256_maskz_loadu_epi16 emulated::masked_load<__m256i, uint16_t>
#define _mm512_mask_storeu_ps emulated::masked_store<float>
#define _mm256_mask_storeu_epi16 emulated::masked_store<uint16_t>

// What vec.h asks the compiler for.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1
