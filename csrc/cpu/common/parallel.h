// How framework-free CPU code runs loops on several threads. No framework header.
#pragma once

#include <cstdint>

namespace cnv2 {
namespace {

// The `grain` of a loop whose every step takes `work` multiply-adds: so many steps that a thread is worth waking.
inline int64_t grain(int64_t work) {
  constexpr int64_t kThreadWork = 128 * 1024;
  return kThreadWork / (work > 0 ? work : 1) + 1;
}

}  // namespace

struct Parallel {
  using Body = void (*)(void* context, int64_t begin, int64_t end);
  // Runs each of the shares 0, 1 ... once, on threads of its own, and returns when all are done.
  using Team = void (*)(int64_t shares, void (*share)(void* context, int64_t number), void* context);

  int64_t threads;      // at most so many run at a time
  Team team = nullptr;  // whose threads these are; null, or in a forked child: those of cpu/threads

  // Cuts [begin, end) into ranges of `grain` or more, several for a thread, calls body(from, to) for each, and returns
  // when all are done. Which thread runs which range is left to chance: a result must not depend on it. The last
  // range of a thread's share may be shorter. What a body throws is thrown here, once nobody runs a range any more.
  template <class F>
  void operator()(int64_t begin, int64_t end, int64_t grain, const F& body) const {
    if (begin >= end) return;
    run(
        begin, end, grain, [](void* context, int64_t from, int64_t to) { (*static_cast<const F*>(context))(from, to); },
        const_cast<F*>(&body));
  }

 private:
  void run(int64_t begin, int64_t end, int64_t grain, Body body, void* context) const;  // cpu/threads/pool.cpp
};

}  // namespace cnv2
