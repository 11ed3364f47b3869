// Waiting without giving up the core, for as long as that is cheaper than to sleep and be woken.
#pragma once

#include <chrono>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace cnv2 {

inline void pause_core() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // `yield` does nothing on most cores
#endif
}

// Whether ready() became true within the time.
template <class Ready>
bool spin_until(std::chrono::microseconds most, const Ready& ready) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + most;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause_core();
    }
  } while (Clock::now() < end);
  return false;
}

}  // namespace cnv2
