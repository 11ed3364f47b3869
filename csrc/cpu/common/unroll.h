// Loops unrolled by the compiler's front end. No framework header.
#pragma once

#define CNV2_INLINE inline __attribute__((always_inline))
#define CNV2_LAMBDA __attribute__((always_inline))

namespace cnv2 {
namespace {

template <int I>
struct Index {
  static constexpr int value = I;
};

// Calls body(Index<Begin>), ..., body(Index<End - 1>): an unrolled loop whose counter is a constant.
template <int Begin, int End, class F>
CNV2_INLINE void unroll(const F& body) {
  if constexpr (Begin < End) {
    body(Index<Begin>{});
    unroll<Begin + 1, End>(body);
  }
}

}  // namespace
}  // namespace cnv2
