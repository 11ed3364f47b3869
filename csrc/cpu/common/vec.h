// Vectors of float32 lanes for the CPU kernels: one interface, one type per instruction set, chosen by the compiler
// flags of the file that includes this. Loads and stores convert from and to the storage types of dtype.h. No framework
// header.
//
// A vector type V has: width; zero(), set(value); load(p), load(p, n), store(p), store(p, n) with n <= width lanes
// (the others read as zero and are not written); add, sub, mul; fma(a, b, c) = a * b + c; min(a, b), max(a, b): b where
// either is a NaN; round(a): to the nearest integer; pow2(n): 2^n for integers -126 <= n <= 127; keep(n): lanes >= n
// become zero; sum(): all lanes, added in a fixed order. Vec16 alone has fraction(a) = a - floor(a), zero where a is
// infinite; scale(a, b) = a * 2^floor(b); reciprocal(a), to 6e-5 of it.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtype.h"
#include "cpu/common/unroll.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace cnv2 {
namespace {

// Four lanes by the compiler's own vector extension: SSE2, NEON, or scalar code where there is no vector unit.
struct Vec4 {
  typedef float Lanes __attribute__((vector_size(16)));
  static constexpr int width = 4;
  Lanes v;

  static CNV2_INLINE Vec4 zero() { return {Lanes{0.f, 0.f, 0.f, 0.f}}; }
  static CNV2_INLINE Vec4 set(float value) { return {Lanes{value, value, value, value}}; }
  static CNV2_INLINE Vec4 load(const float* p) {
    Vec4 out;
    std::memcpy(&out.v, p, sizeof(out.v));
    return out;
  }
  template <class T>
  static CNV2_INLINE Vec4 load(const T* p) {
    return {Lanes{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}};
  }
  template <class T>
  static CNV2_INLINE Vec4 load(const T* p, int n) {
    Vec4 out = zero();
    for (int i = 0; i < n; ++i) out.v[i] = to_float(p[i]);
    return out;
  }
  CNV2_INLINE void store(float* p) const { std::memcpy(p, &v, sizeof(v)); }
  template <class T>
  CNV2_INLINE void store(T* p) const {
    for (int i = 0; i < width; ++i) from_float(v[i], p + i);
  }
  template <class T>
  CNV2_INLINE void store(T* p, int n) const {
    for (int i = 0; i < n; ++i) from_float(v[i], p + i);
  }
  static CNV2_INLINE Vec4 add(Vec4 a, Vec4 b) { return {a.v + b.v}; }
  static CNV2_INLINE Vec4 sub(Vec4 a, Vec4 b) { return {a.v - b.v}; }
  static CNV2_INLINE Vec4 mul(Vec4 a, Vec4 b) { return {a.v * b.v}; }
  static CNV2_INLINE Vec4 fma(Vec4 a, Vec4 b, Vec4 c) { return {a.v * b.v + c.v}; }
  typedef int32_t Ints __attribute__((vector_size(16)));
  static CNV2_INLINE Vec4 choose(Ints mask, Vec4 a, Vec4 b) {  // a where the mask is set
    return {(Lanes)(((Ints)a.v & mask) | ((Ints)b.v & ~mask))};
  }
  static CNV2_INLINE Vec4 min(Vec4 a, Vec4 b) { return choose(a.v < b.v, a, b); }
  static CNV2_INLINE Vec4 max(Vec4 a, Vec4 b) { return choose(a.v > b.v, a, b); }
  static CNV2_INLINE Vec4 round(Vec4 a) {  // for |a| < 2^22: the sum has no bits below the units
    constexpr float kShift = 12582912.f;
    const Lanes shifted = a.v + kShift;
    return {shifted - kShift};
  }
  static CNV2_INLINE Vec4 pow2(Vec4 n) {
    const Ints bits = (__builtin_convertvector(n.v, Ints) + 127) << 23;
    Vec4 out;
    std::memcpy(&out.v, &bits, sizeof(out.v));
    return out;
  }
  CNV2_INLINE Vec4 keep(int n) const {
    Vec4 out = zero();
    for (int i = 0; i < n; ++i) out.v[i] = v[i];
    return out;
  }
  CNV2_INLINE float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
};

#if defined(__AVX2__) || defined(__AVX512F__)
constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
constexpr int kDownwards = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
#endif

#if defined(__AVX2__)

struct Vec8 {
  static constexpr int width = 8;
  __m256 v;

  static CNV2_INLINE Vec8 zero() { return {_mm256_setzero_ps()}; }
  static CNV2_INLINE Vec8 set(float value) { return {_mm256_set1_ps(value)}; }
  static CNV2_INLINE __m256i first(int n) {  // all bits set in the first n lanes
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static CNV2_INLINE Vec8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static CNV2_INLINE Vec8 load(const BFloat16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static CNV2_INLINE Vec8 load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static CNV2_INLINE Vec8 load(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
  template <class T>
  static CNV2_INLINE Vec8 load(const T* p, int n) {
    T lanes[width] = {};
    std::memcpy(lanes, p, n * sizeof(T));
    return load(lanes);
  }
  CNV2_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  CNV2_INLINE void store(BFloat16* p) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    const __m256i high = _mm256_srli_epi32(chosen, 16);
    const __m256i packed = _mm256_packus_epi32(high, high);  // per 128-bit half: a a | b b
    const __m256i ordered = _mm256_permute4x64_epi64(packed, 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(ordered));
  }
  CNV2_INLINE void store(Half* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  CNV2_INLINE void store(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }
  template <class T>
  CNV2_INLINE void store(T* p, int n) const {
    T lanes[width];
    store(lanes);
    std::memcpy(p, lanes, n * sizeof(T));
  }
  static CNV2_INLINE Vec8 add(Vec8 a, Vec8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec8 sub(Vec8 a, Vec8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec8 mul(Vec8 a, Vec8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec8 fma(Vec8 a, Vec8 b, Vec8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static CNV2_INLINE Vec8 min(Vec8 a, Vec8 b) { return {_mm256_min_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec8 max(Vec8 a, Vec8 b) { return {_mm256_max_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec8 round(Vec8 a) { return {_mm256_round_ps(a.v, kToNearest)}; }
  static CNV2_INLINE Vec8 pow2(Vec8 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
  }
  CNV2_INLINE Vec8 keep(int n) const { return {_mm256_and_ps(v, _mm256_castsi256_ps(first(n)))}; }
  CNV2_INLINE float sum() const {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }
};

#endif  // __AVX2__

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

struct Vec16 {
  static constexpr int width = 16;
  __m512 v;

  static CNV2_INLINE Vec16 zero() { return {_mm512_setzero_ps()}; }
  static CNV2_INLINE Vec16 set(float value) { return {_mm512_set1_ps(value)}; }
  static CNV2_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static CNV2_INLINE Vec16 widen(__m256i bits, const BFloat16*) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  static CNV2_INLINE Vec16 widen(__m256i bits, const Half*) { return {_mm512_cvtph_ps(bits)}; }
  static CNV2_INLINE Vec16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  template <class T>
  static CNV2_INLINE Vec16 load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
  }
  static CNV2_INLINE Vec16 load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
  template <class T>
  static CNV2_INLINE Vec16 load(const T* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p), p);
  }
  CNV2_INLINE __m256i narrow(const BFloat16*) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
  }
  CNV2_INLINE __m256i narrow(const Half*) const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  CNV2_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  template <class T>
  CNV2_INLINE void store(T* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(p));
  }
  CNV2_INLINE void store(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  template <class T>
  CNV2_INLINE void store(T* p, int n) const {
    _mm256_mask_storeu_epi16(p, first(n), narrow(p));
  }
  static CNV2_INLINE Vec16 add(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec16 sub(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec16 mul(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec16 fma(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static CNV2_INLINE Vec16 min(Vec16 a, Vec16 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec16 max(Vec16 a, Vec16 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec16 round(Vec16 a) { return {_mm512_roundscale_ps(a.v, kToNearest)}; }
  static CNV2_INLINE Vec16 pow2(Vec16 n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
  }
  static CNV2_INLINE Vec16 fraction(Vec16 a) { return {_mm512_reduce_ps(a.v, kDownwards)}; }
  static CNV2_INLINE Vec16 scale(Vec16 a, Vec16 b) { return {_mm512_scalef_ps(a.v, b.v)}; }
  static CNV2_INLINE Vec16 reciprocal(Vec16 a) { return {_mm512_rcp14_ps(a.v)}; }
  CNV2_INLINE Vec16 keep(int n) const { return {_mm512_maskz_mov_ps(first(n), v)}; }
  CNV2_INLINE float sum() const { return _mm512_reduce_add_ps(v); }
};

#endif  // __AVX512F__ ...

}  // namespace
}  // namespace cnv2
