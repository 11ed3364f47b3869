// How framework-free CPU code runs loops on several threads: its caller says.
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

  int64_t threads;  // at most so many run at a time
  // Splits [begin, end) into one range a thread, of `grain` or more each, and returns when all are done.
  void (*run)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

  template <class F>
  void operator()(int64_t begin, int64_t end, int64_t grain, const F& body) const {
    if (begin >= end) return;
    run(
        begin, end, grain, [](void* context, int64_t from, int64_t to) { (*static_cast<const F*>(context))(from, to); },
        const_cast<F*>(&body));
  }
};

}  // namespace cnv2
