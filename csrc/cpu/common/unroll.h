// Loops unrolled by the compiler's front end. No framework header.
#pragma once

// Functions that must become part of the kernel around them, whatever the compiler thinks of their size: a vector that
// crosses a call goes through memory instead of a register.
#define CNV2_INLINE inline __attribute__((always_inline))
// The same for lambdas, between the parameters and the body: [&](auto i) CNV2_LAMBDA { ... }. The compiler would leave
// a lambda that is called from several places, such as the steps of an unrolled loop, as a function of its own; then
// what it captures by reference, accumulators and all, has an address and lives in memory, not in registers.
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
