// Waiting for as long as that is cheaper than to sleep and be woken.
#pragma once

#include <chrono>
#include <thread>

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

// How long a core is kept from everybody else. Later each look ends in a call of the system, which gives the core to a
// neighbour if one wants it and comes back at once if none does.
constexpr std::chrono::microseconds kKeepsCore{10};

// Whether ready() became true within the time.
template <class Ready>
bool spin_until(std::chrono::microseconds most, const Ready& ready) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  for (Clock::time_point now = begin; now < begin + most; now = Clock::now()) {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause_core();
    }
    if (now > begin + kKeepsCore) std::this_thread::yield();
  }
  return false;
}

}  // namespace cnv2
