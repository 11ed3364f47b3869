// What device code takes from the hardware beyond CUDA's own functions: conversions, 16-byte stores, asynchronous
// copies and matrix products (both sm_80 and newer). Included through platform.cuh; the emulation of the tests has the
// same functions in emulated_instructions.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "common/dtype.h"

// `CNV2_SHARED(name);` in a kernel: its dynamic shared memory, as unsigned char*, aligned to 16 bytes. There is no
// other: the emulation fills it with poison for each block and guards its ends.
#define CNV2_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace cnv2 {

__device__ inline float load_float(const float* p) { return *p; }
__device__ inline float load_float(const Half* p) { return __half2float(__ushort_as_half(p->bits)); }
__device__ inline float load_float(const BFloat16* p) { return __bfloat162float(__ushort_as_bfloat16(p->bits)); }

__device__ inline void store_float(float* p, float value) { *p = value; }
__device__ inline void store_float(Half* p, float value) { p->bits = __half_as_ushort(__float2half_rn(value)); }
__device__ inline void store_float(BFloat16* p, float value) {
  p->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// Two values as one word of T (BFloat16 or Half), the first in the low half. One conversion for both: from CUDA's own
// pairs the halves would be taken out and put together again, on some architectures in instructions of their own.
template <class T>
__device__ inline unsigned pack_pair(float low, float high) {
  unsigned pair;
  if constexpr (std::is_same<T, BFloat16>::value)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <class T>
__device__ inline void unpack_pair(unsigned pair, float* low, float* high) {
  if constexpr (std::is_same<T, BFloat16>::value) {  // the upper half of a float32
    *low = __uint_as_float(pair << 16);
    *high = __uint_as_float(pair & 0xffff0000u);
  } else {
    *low = __half2float(__ushort_as_half(static_cast<unsigned short>(pair)));
    *high = __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16)));
  }
}

// 2^x to 2 units in the last place of float32, and 1 / x to 1: one instruction each, which reads and gives zero where
// the value is too small for a normal number. exp2f and __fdividef spend more on those.
__device__ inline float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float reciprocal_approx(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// One store of 16 bytes to global or to shared memory. Assigned, a uint4 made of four values may become four stores.
__device__ inline void store_global16(void* p, const uint4& v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ inline void store_shared16(void* p, const uint4& v) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(p));
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Starts copying 16 bytes from global to shared memory beside the computation, both ends aligned to 16; writes zeros
// where not `live` (`global` is then not read).
__device__ inline void copy_async16(void* shared, const void* global, bool live) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = live ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

// Ends a group of this thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the kPending latest groups of this thread are under way. A barrier must follow before the thread
// reads what other threads copied.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// d += a b for matrices of BFloat16 or Half (T). All 32 lanes of the warp must call it together.
//
// Lane l holds, with g = l / 4 and t = l % 4, where each register of a and b has two adjacent k, the lower one in its
// low half:
//   a [16, 16]  a[0] (g, 2t..)  a[1] (g + 8, 2t..)  a[2] (g, 2t + 8..)  a[3] (g + 8, 2t + 8..)    as (row, k)
//   b [16, 8]   b[0] (2t.., g)  b[1] (2t + 8.., g)                                                as (k, column)
//   d [16, 8]   d[0] (g, 2t)    d[1] (g, 2t + 1)    d[2] (g + 8, 2t)    d[3] (g + 8, 2t + 1)      as (row, column)
template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  static_assert(std::is_same<T, BFloat16>::value || std::is_same<T, Half>::value, "operands of 16 bits");
  if constexpr (std::is_same<T, BFloat16>::value) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

}  // namespace cnv2
