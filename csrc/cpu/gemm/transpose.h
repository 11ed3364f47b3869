// Square blocks of vectors, transposed in registers. No framework header.
#pragma once

#include "cpu/common/vec.h"

namespace cnv2 {
namespace {

// rows[i] lane j becomes rows[j] lane i.
CNV2_INLINE void transpose(Vec4 (&rows)[4]) {
  Vec4 columns[4];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) columns[i].v[j] = rows[j].v[i];
  }
  for (int i = 0; i < 4; ++i) rows[i] = columns[i];
}

#if defined(__AVX2__)

CNV2_INLINE void transpose(Vec8 (&rows)[8]) {
  __m256 pairs[8], quads[8];
  unroll<0, 4>([&](auto i) CNV2_LAMBDA {
    constexpr int at = 2 * i.value;
    pairs[at] = _mm256_unpacklo_ps(rows[at].v, rows[at + 1].v);
    pairs[at + 1] = _mm256_unpackhi_ps(rows[at].v, rows[at + 1].v);
  });
  unroll<0, 2>([&](auto i) CNV2_LAMBDA {
    constexpr int at = 4 * i.value;
    quads[at] = _mm256_shuffle_ps(pairs[at], pairs[at + 2], 0x44);
    quads[at + 1] = _mm256_shuffle_ps(pairs[at], pairs[at + 2], 0xee);
    quads[at + 2] = _mm256_shuffle_ps(pairs[at + 1], pairs[at + 3], 0x44);
    quads[at + 3] = _mm256_shuffle_ps(pairs[at + 1], pairs[at + 3], 0xee);
  });
  unroll<0, 4>([&](auto i) CNV2_LAMBDA {
    rows[i.value].v = _mm256_permute2f128_ps(quads[i.value], quads[i.value + 4], 0x20);
    rows[i.value + 4].v = _mm256_permute2f128_ps(quads[i.value], quads[i.value + 4], 0x31);
  });
}

#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

CNV2_INLINE void transpose(Vec16 (&rows)[16]) {
  __m512 pairs[16], quads[16], halves[16];
  unroll<0, 8>([&](auto i) CNV2_LAMBDA {
    constexpr int at = 2 * i.value;
    pairs[at] = _mm512_unpacklo_ps(rows[at].v, rows[at + 1].v);
    pairs[at + 1] = _mm512_unpackhi_ps(rows[at].v, rows[at + 1].v);
  });
  // Lane group g of quads[4 i + j]: column 4 g + j of rows 4 i .. 4 i + 3.
  unroll<0, 4>([&](auto i) CNV2_LAMBDA {
    constexpr int at = 4 * i.value;
    quads[at] = _mm512_shuffle_ps(pairs[at], pairs[at + 2], 0x44);
    quads[at + 1] = _mm512_shuffle_ps(pairs[at], pairs[at + 2], 0xee);
    quads[at + 2] = _mm512_shuffle_ps(pairs[at + 1], pairs[at + 3], 0x44);
    quads[at + 3] = _mm512_shuffle_ps(pairs[at + 1], pairs[at + 3], 0xee);
  });
  unroll<0, 4>([&](auto j) CNV2_LAMBDA {
    constexpr int at = j.value;
    halves[at] = _mm512_shuffle_f32x4(quads[at], quads[at + 4], 0x88);      // groups 0 2 of both
    halves[at + 4] = _mm512_shuffle_f32x4(quads[at], quads[at + 4], 0xdd);  // groups 1 3
    halves[at + 8] = _mm512_shuffle_f32x4(quads[at + 8], quads[at + 12], 0x88);
    halves[at + 12] = _mm512_shuffle_f32x4(quads[at + 8], quads[at + 12], 0xdd);
  });
  unroll<0, 4>([&](auto j) CNV2_LAMBDA {
    constexpr int at = j.value;
    rows[at].v = _mm512_shuffle_f32x4(halves[at], halves[at + 8], 0x88);            // columns 0 .. 3
    rows[at + 8].v = _mm512_shuffle_f32x4(halves[at], halves[at + 8], 0xdd);        // 8 .. 11
    rows[at + 4].v = _mm512_shuffle_f32x4(halves[at + 4], halves[at + 12], 0x88);   // 4 .. 7
    rows[at + 12].v = _mm512_shuffle_f32x4(halves[at + 4], halves[at + 12], 0xdd);  // 12 .. 15
  });
}

#endif

}  // namespace
}  // namespace cnv2
