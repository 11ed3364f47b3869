// Conversions between the storage types of dtype.h and float32 in device code: by the hardware's instructions, or,
// where the kernels are compiled as plain C++ (the emulation of the tests), by those of dtype.h.
#pragma once

#include "common/dtype.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace cnv2 {

#ifdef __CUDACC__

__device__ inline float load_float(const float* p) { return *p; }
__device__ inline float load_float(const Half* p) { return __half2float(__ushort_as_half(p->bits)); }
__device__ inline float load_float(const BFloat16* p) { return __bfloat162float(__ushort_as_bfloat16(p->bits)); }

__device__ inline void store_float(float* p, float value) { *p = value; }
__device__ inline void store_float(Half* p, float value) { p->bits = __half_as_ushort(__float2half_rn(value)); }
__device__ inline void store_float(BFloat16* p, float value) {
  p->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

#else

template <class T>
inline float load_float(const T* p) {
  return to_float(*p);
}

template <class T>
inline void store_float(T* p, float value) {
  from_float(value, p);
}

#endif

}  // namespace cnv2
