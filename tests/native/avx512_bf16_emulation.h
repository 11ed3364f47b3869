// On top of avx512_emulation.h: the instructions on bfloat16 pairs, as Intel's manual defines them. Denormals are
// zeros, going in and coming out; every step rounds to nearest even.
#pragma once

#include <array>
#include <atomic>
#include <cfloat>

#include "avx512_emulation.h"

namespace emulated {

// How many instructions multiplied pairs, and how many multiply-adds each stands for.
inline std::atomic<long> products{0};
#ifndef CNV2_COUNTED_PRODUCTS
#define CNV2_COUNTED_PRODUCTS 32
#endif
constexpr long kProductsOfInstruction = CNV2_COUNTED_PRODUCTS;

struct m512bh {
  uint16_t lane[32];
};

inline float flushed(float a) { return a < FLT_MIN && a > -FLT_MIN ? std::copysign(0.0f, a) : a; }
inline float widened(uint16_t a) { return flushed(bits<float>(static_cast<uint32_t>(a) << 16)); }
inline uint16_t narrowed(float a) {
  const uint32_t word = bits<uint32_t>(flushed(a));
  if (std::isnan(a)) return static_cast<uint16_t>(word >> 16 | 0x40);
  return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

// The second numbers of the pairs first.
inline m512 dpbf16_ps(m512 sum, m512bh a, m512bh b) {
  ++products;
  return lanes<m512>([&](int i) {
    float out = flushed(sum.lane[i]);
    for (int k : {2 * i + 1, 2 * i}) out = flushed(std::fma(widened(a.lane[k]), widened(b.lane[k]), out));
    return out;
  });
}
// The second operand's lanes first.
inline m512bh cvtne2ps_pbh(m512 a, m512 b) {
  m512bh out;
  for (int i = 0; i < 32; ++i) out.lane[i] = narrowed(i < 16 ? b.lane[i] : a.lane[i - 16]);
  return out;
}
inline m512i setr_epi32(const std::array<int, 16>& lane) {
  return lanes<m512i>([&](int i) { return static_cast<uint32_t>(lane[i]); });
}
inline m512i permutexvar_epi16(m512i order, m512i a) {
  const auto at = bits<m512bh>(order), from = bits<m512bh>(a);
  m512bh out;
  for (int i = 0; i < 32; ++i) out.lane[i] = from.lane[at.lane[i] % 32];
  return bits<m512i>(out);
}
inline m512i permutex2var_epi16(m512i a, m512i order, m512i b) {
  const auto at = bits<m512bh>(order), low = bits<m512bh>(a), high = bits<m512bh>(b);
  m512bh out;
  for (int i = 0; i < 32; ++i) out.lane[i] = (at.lane[i] & 32 ? high : low).lane[at.lane[i] % 32];
  return bits<m512i>(out);
}

}  // namespace emulated

#define __m512bh emulated::m512bh
#define _mm512_dpbf16_ps emulated::dpbf16_ps
#define _mm512_cvtne2ps_pbh emulated::cvtne2ps_pbh
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) emulated::setr_epi32({__VA_ARGS__})
#define _mm512_permutexvar_epi16 emulated::permutexvar_epi16
#define _mm512_permutex2var_epi16 emulated::permutex2var_epi16

#define __AVX512BF16__ 1
