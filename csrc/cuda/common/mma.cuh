// The warp's matrix instructions on 16-bit operands (sm_80 and newer). All 32 lanes must call them together.
//
// Of lane l, with g = l / 4 and t = l % 4; each register of a and b holds two adjacent k, the lower one in its low
// half:
//   a [16, 16]  a[0] (g, 2t..)  a[1] (g + 8, 2t..)  a[2] (g, 2t + 8..)  a[3] (g + 8, 2t + 8..)    as (row, k)
//   b [16, 8]   b[0] (2t.., g)  b[1] (2t + 8.., g)                                                as (k, column)
//   d [16, 8]   d[0] (g, 2t)    d[1] (g, 2t + 1)    d[2] (g + 8, 2t)    d[3] (g + 8, 2t + 1)      as (row, column)
#pragma once

#include <type_traits>

#include "cuda/common/api.h"
#include "common/dtype.h"

namespace cnv2 {

// d += a b; T: BFloat16 or Half.
template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  static_assert(std::is_same<T, BFloat16>::value || std::is_same<T, Half>::value, "operands of 16 bits");
#ifdef CNV2_CUDA_EMULATION
  float wide_a[8], wide_b[4];
  for (int i = 0; i < 8; ++i) wide_a[i] = to_float(T{static_cast<uint16_t>(a[i / 2] >> 16 * (i % 2))});
  for (int i = 0; i < 4; ++i) wide_b[i] = to_float(T{static_cast<uint16_t>(b[i / 2] >> 16 * (i % 2))});
  cuda_emulation::mma_m16n8k16(d, wide_a, wide_b, cuda_emulation::Site("mma_m16n8k16"));
#else
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
#endif
}

// Four matrices of 8 x 8 elements of 16 bits. `row`, in shared memory and aligned to 16 bytes: the 8 elements of row
// l % 8 of matrix l / 8. r[m] holds elements (g, 2t) and (g, 2t + 1) of matrix m. Writes of other lanes to the rows
// need
// __syncwarp or __syncthreads before.
__device__ inline void load_matrix_x4(unsigned (&r)[4], const void* row) {
#ifdef CNV2_CUDA_EMULATION
  cuda_emulation::load_matrix_x4(r, row, false, cuda_emulation::Site("load_matrix_x4"));
#else
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
#endif
}

// The same of the transposed matrices: r[m] holds elements (2t, g) and (2t + 1, g) of matrix m.
__device__ inline void load_matrix_x4_transposed(unsigned (&r)[4], const void* row) {
#ifdef CNV2_CUDA_EMULATION
  cuda_emulation::load_matrix_x4(r, row, true, cuda_emulation::Site("load_matrix_x4_transposed"));
#else
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
#endif
}

}  // namespace cnv2
