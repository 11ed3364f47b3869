// The functions of csrc/cuda/common/instructions.cuh, which says what they do.
#pragma once

#include "common/dtype.h"
#include "emulated_matrix.h"

#define CNV2_SHARED(name) unsigned char* const name = cuda_emulation::shared_memory()

namespace cnv2 {

template <class T>
float load_float(const T* p) {
  return to_float(*p);
}

template <class T>
void store_float(T* p, float value) {
  from_float(value, p);
}

template <class T>
unsigned pack_pair(float low, float high) {
  T pair[2];
  store_float(&pair[0], low);
  store_float(&pair[1], high);
  return pair[0].bits | static_cast<unsigned>(pair[1].bits) << 16;
}

template <class T>
void unpack_pair(unsigned pair, float* low, float* high) {
  *low = to_float(T{static_cast<uint16_t>(pair)});
  *high = to_float(T{static_cast<uint16_t>(pair >> 16)});
}

// C leaves open which zero is the larger one; to the processor it is +0.
inline float fmaxf(float a, float b) { return a == b ? (std::signbit(a) ? b : a) : ::fmaxf(a, b); }

// The exact values, where the hardware's are a few units off.
inline float exp2_approx(float x) { return cuda_emulation::flushed(exp2f(cuda_emulation::flushed(x))); }
inline float reciprocal_approx(float x) { return cuda_emulation::flushed(1.0f / cuda_emulation::flushed(x)); }

inline void store_global16(void* p, const uint4& v) { *static_cast<uint4*>(p) = v; }
inline void store_shared16(void* p, const uint4& v) { *static_cast<uint4*>(p) = v; }

inline void copy_async16(void* shared, const void* global, bool live) {
  cuda_emulation::copy_async(shared, live ? global : nullptr, 16);
}
inline void commit_copies() { cuda_emulation::commit_copies(); }
template <int kPending>
void wait_for_copies() {
  cuda_emulation::wait_for_copies(kPending);
}

template <class T>
void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                  const cuda_emulation::Site& site = cuda_emulation::Site("mma_m16n8k16")) {
  float wide_a[8], wide_b[4];
  for (int i = 0; i < 8; ++i) wide_a[i] = to_float(T{static_cast<uint16_t>(a[i / 2] >> 16 * (i % 2))});
  for (int i = 0; i < 4; ++i) wide_b[i] = to_float(T{static_cast<uint16_t>(b[i / 2] >> 16 * (i % 2))});
  cuda_emulation::mma_m16n8k16(d, wide_a, wide_b, site);
}

}  // namespace cnv2
