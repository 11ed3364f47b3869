// Storage types of the kernels and their exact conversions to and from float32. No framework header.
#pragma once

#include <cstdint>
#include <cstring>

namespace cnv2 {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

// Internal linkage, always: these headers are compiled once per instruction set, and a shared inline symbol would let
// the linker hand the AVX-512 copy of a function to the baseline code.
namespace {

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) { return bits_float(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    bits = (magnitude << 13) | 0x7f800000u;
  } else if (magnitude >= 0x0400u) {  // normal: move the exponent's bias from 15 to 127
    bits = (magnitude << 13) + 0x38000000u;
  } else {  // subnormal: a multiple of 2^-24
    bits = float_bits(static_cast<float>(magnitude) * 5.9604644775390625e-8f);
  }
  return bits_float(bits | sign);
}

// Round to nearest, ties to even; NaN stays a (quiet) NaN.
inline void from_float(float value, float* out) { *out = value; }

inline void from_float(float value, BFloat16* out) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out->bits = static_cast<uint16_t>((bits >> 16) | 0x40u);
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}

inline void from_float(float value, Half* out) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5, whose ulp is 2^-24, rounds to a subnormal
    half = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    magnitude += 0xfffu + ((magnitude >> 13) & 1u);
    half = (magnitude - 0x38000000u) >> 13;
  }
  out->bits = static_cast<uint16_t>(half | sign);
}

}  // namespace
}  // namespace cnv2
