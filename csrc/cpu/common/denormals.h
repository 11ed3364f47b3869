// Subnormal floats count as zero within a scope, as operands and as results. The smallest normal float is 1.2e-38, so
// no result that matters changes; but a multiply-add of subnormal numbers takes a hundred times as long on many CPUs.
// No framework header.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace cnv2 {

// Sets this thread's flush-to-zero and denormals-are-zero modes, and puts back what was there before.
class FlushDenormals {
 public:
  FlushDenormals() : before_(control()) { set_control(before_ | kFlush); }
  ~FlushDenormals() { set_control(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE__)
  using Control = uint32_t;
  static constexpr Control kFlush = 0x8040;  // MXCSR: flush to zero is bit 15, denormals are zero is bit 6
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static constexpr Control kFlush = 1 << 24;  // FPCR.FZ: operands and results of float and double, not of half
  static Control control() {
    Control value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(Control value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  using Control = uint32_t;
  static constexpr Control kFlush = 0;
  static Control control() { return 0; }
  static void set_control(Control) {}
#endif
  const Control before_;
};

}  // namespace cnv2
