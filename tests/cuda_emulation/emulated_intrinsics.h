// CUDA's device functions. Atomics are left out: kernels sum in a fixed order.
#pragma once

#include <math.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulated_block.h"

namespace cuda_emulation {

template <class T>
T bits_as(const void* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// What lane `from` passes as `value`.
template <class T>
T shuffle(T value, unsigned mask, unsigned from, const Site& site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  return bits_as<T>(running.exchange(&value, sizeof(T), mask, site)[from].bytes);
}

inline unsigned ballot(bool vote, unsigned mask, const Site& site) {
  const unsigned char mine = vote ? 1 : 0;
  const Slot* const slots = running.exchange(&mine, 1, mask, site);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < Block::kWarp; ++lane) votes |= unsigned{slots[lane].bytes[0]} << lane;
  return votes;
}

// As instructions with .ftz read and give a value: subnormal numbers are zeros of their sign.
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? copysignf(0.0f, x) : x; }

inline unsigned lane() { return threadIdx.x % Block::kWarp; }
// First and last lane of the run of `width` lanes, a power of 2, that this lane is in.
inline unsigned first_of(int width) { return lane() & ~static_cast<unsigned>(width - 1); }
inline unsigned last_of(int width) { return lane() | static_cast<unsigned>(width - 1); }

}  // namespace cuda_emulation

inline void __syncthreads(const cuda_emulation::Site& site = cuda_emulation::Site("__syncthreads")) {
  cuda_emulation::running.sync(false, site);
}
inline int __syncthreads_count(int vote,
                               const cuda_emulation::Site& site = cuda_emulation::Site("__syncthreads_count")) {
  return cuda_emulation::running.sync(vote != 0, site);
}
inline int __syncthreads_or(int vote, const cuda_emulation::Site& site = cuda_emulation::Site("__syncthreads_or")) {
  return cuda_emulation::running.sync(vote != 0, site) > 0;
}
inline int __syncthreads_and(int vote, const cuda_emulation::Site& site = cuda_emulation::Site("__syncthreads_and")) {
  return cuda_emulation::running.sync(vote != 0, site) == static_cast<int>(blockDim.x);
}
inline void __syncwarp(unsigned mask = ~0u, const cuda_emulation::Site& site = cuda_emulation::Site("__syncwarp")) {
  cuda_emulation::running.exchange(&mask, 0, mask, site);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32,
              const cuda_emulation::Site& site = cuda_emulation::Site("__shfl_sync")) {
  const unsigned in_run = static_cast<unsigned>(from) % static_cast<unsigned>(width);
  return cuda_emulation::shuffle(value, mask, cuda_emulation::first_of(width) + in_run, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32,
                  const cuda_emulation::Site& site = cuda_emulation::Site("__shfl_xor_sync")) {
  const unsigned from = cuda_emulation::lane() ^ static_cast<unsigned>(flip);
  return cuda_emulation::shuffle(value, mask, from > cuda_emulation::last_of(width) ? cuda_emulation::lane() : from,
                                 site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 const cuda_emulation::Site& site = cuda_emulation::Site("__shfl_up_sync")) {
  const unsigned lane = cuda_emulation::lane();
  return cuda_emulation::shuffle(value, mask, lane < cuda_emulation::first_of(width) + by ? lane : lane - by, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   const cuda_emulation::Site& site = cuda_emulation::Site("__shfl_down_sync")) {
  const unsigned lane = cuda_emulation::lane();
  return cuda_emulation::shuffle(value, mask, lane + by > cuda_emulation::last_of(width) ? lane : lane + by, site);
}

inline unsigned __ballot_sync(unsigned mask, int vote,
                              const cuda_emulation::Site& site = cuda_emulation::Site("__ballot_sync")) {
  return cuda_emulation::ballot(vote != 0, mask, site);
}
inline int __any_sync(unsigned mask, int vote, const cuda_emulation::Site& site = cuda_emulation::Site("__any_sync")) {
  return cuda_emulation::ballot(vote != 0, mask, site) != 0;
}
inline int __all_sync(unsigned mask, int vote, const cuda_emulation::Site& site = cuda_emulation::Site("__all_sync")) {
  return cuda_emulation::ballot(vote != 0, mask, site) == ~0u;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
// Byte i of the result is byte (selector >> 4 i) % 8 of the 8 bytes of a, then b.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) result |= (both >> 8 * (selector >> 4 * i & 7) & 0xffu) << 8 * i;
  return result;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }  // 0 for NaN
inline unsigned __float_as_uint(float x) { return cuda_emulation::bits_as<unsigned>(&x); }
inline float __uint_as_float(unsigned bits) { return cuda_emulation::bits_as<float>(&bits); }
inline int __float_as_int(float x) { return cuda_emulation::bits_as<int>(&x); }
inline float __int_as_float(int bits) { return cuda_emulation::bits_as<float>(&bits); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
using std::max;
using std::min;
