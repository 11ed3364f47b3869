// A block of threads on one core: a fiber each, which runs until it waits for the others. Barriers, exchanges within a
// warp, shared memory and asynchronous copies. What a kernel does wrong ends the launch with an exception that says
// what.
#pragma once

#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulated_fibers.h"
#include "emulated_order.h"
#include "emulated_types.h"

inline dim3 blockIdx, blockDim, gridDim;
inline uint3 threadIdx;

namespace cuda_emulation {

// Where in the kernel a thread waits. As a default argument, Site("name") is the line of the caller.
struct Site {
  const char* what;
  const char* file;
  int line;

  Site() = default;
  explicit Site(const char* what_, const char* file_ = __builtin_FILE(), int line_ = __builtin_LINE())
      : what(what_), file(file_), line(line_) {}
  bool operator==(const Site& other) const {
    return line == other.line && (what == other.what || std::strcmp(what, other.what) == 0) &&
           (file == other.file || std::strcmp(file, other.file) == 0);
  }
  std::string text() const { return std::string(what) + " at " + file + ":" + std::to_string(line); }
};

struct Slot {  // what a lane passes to the others
  alignas(16) unsigned char bytes[48];
};

class Block {
 public:
  static constexpr unsigned kWarp = 32, kMaxWarps = 32;
  // Bytes on either side of shared memory that must stay as they are; the address sanitizer guards a bare allocation.
  static constexpr size_t kGuard = CUDA_EMULATION_ASAN ? 0 : 4096;

  void prepare(unsigned threads, int64_t shared_bytes, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    threads_ = threads;
    shared_size_ = static_cast<size_t>(shared_bytes);
    memory_.reset(new unsigned char[shared_size_ + 2 * kGuard]);
    while (fibers_.size() < threads) fibers_.emplace_back(new Fiber(&Block::thread_main, fibers_.size()));
    copies_.resize(fibers_.size());
  }
  void release() { memory_.reset(); }

  // Runs the block at blockIdx.
  void run(uint64_t number) {
    std::memset(memory_.get(), 0xff, shared_size_ + 2 * kGuard);
    choice_.begin(number);
    ended_ = 0;
    barrier_ = {};
    with_work_ = 0;
    for (unsigned w = 0; w < threads_ / kWarp; ++w) {
      warps_[w].runnable = ~0u;
      warps_[w].arrived = 0;
      with_work_ |= 1u << w;
    }
    scheduler_.switch_to(next());
    if (!failure_.empty()) abandon();
    check_guards();
  }

  // All threads of the block wait; returns how many voted.
  int sync(bool vote, const Site& site) {
    if (barrier_.arrived == 0) barrier_.site = site;
    if (!(barrier_.site == site)) {
      fail("divergent barrier: some threads wait in " + barrier_.site.text() + ", this one in " + site.text());
    }
    const unsigned turn = barrier_.turn;
    barrier_.votes[turn] += vote ? 1 : 0;
    if (++barrier_.arrived == threads_) {
      barrier_.arrived = 0;
      barrier_.turn ^= 1;  // early threads vote in the next turn while late ones still read this one
      barrier_.votes[barrier_.turn] = 0;
      for (unsigned w = 0; w < threads_ / kWarp; ++w) wake(w, ~0u);
    } else {
      stop_current();
    }
    go_on();
    return barrier_.votes[turn];
  }

  // All lanes of the warp wait; returns what each of them passed. Valid until the lane's next exchange.
  const Slot* exchange(const void* data, size_t bytes, unsigned mask, const Site& site) {
    Warp& warp = warps_[threadIdx.x / kWarp];
    if (mask != ~0u) fail(site.text() + ": the mask names not all lanes, which is not emulated");
    if (warp.arrived == 0) warp.site = site;
    if (!(warp.site == site)) {
      fail("divergent warp: some lanes wait in " + warp.site.text() + ", this one in " + site.text());
    }
    Slot* const slots = warp.slots[warp.turn];
    std::memcpy(slots[threadIdx.x % kWarp].bytes, data, bytes);
    if (++warp.arrived == kWarp) {
      warp.arrived = 0;
      warp.turn ^= 1;
      wake(threadIdx.x / kWarp, ~0u);
    } else {
      stop_current();
    }
    go_on();
    return slots;
  }

  unsigned char* shared() { return memory_.get() + kGuard; }
  bool is_shared(const void* p, size_t bytes) {
    const auto at = reinterpret_cast<uintptr_t>(p), begin = reinterpret_cast<uintptr_t>(shared());
    return at >= begin && at - begin + bytes <= shared_size_;
  }

  // The bytes land when the thread waits for them, the last moment that the hardware may choose; until then there is
  // poison in their place.
  void copy_async(void* to, const void* from, size_t bytes) {
    if (!is_shared(to, bytes)) fail("asynchronous copy to outside the block's shared memory");
    if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
      fail("asynchronous copy from or to an address that is not aligned to its " + std::to_string(bytes) + " bytes");
    }
    Copies& mine = copies_[threadIdx.x];
    Copy copy{to, from, bytes, mine.groups, {}};
    if (from != nullptr) std::memcpy(copy.bytes, from, bytes);
    std::memset(to, 0xff, bytes);
    mine.pending.push_back(copy);
  }
  void commit_copies() { ++copies_[threadIdx.x].groups; }
  void wait_for_copies(int allowed) {
    Copies& mine = copies_[threadIdx.x];
    size_t landed = 0;
    for (; landed < mine.pending.size() && mine.pending[landed].group < mine.groups - allowed; ++landed) {
      const Copy& copy = mine.pending[landed];
      if (copy.from != nullptr && std::memcmp(copy.from, copy.bytes, copy.size) != 0) {
        fail("the source of an asynchronous copy changed while the copy was under way");
      }
      std::memcpy(copy.to, copy.bytes, copy.size);
    }
    mine.pending.erase(mine.pending.begin(), mine.pending.begin() + static_cast<std::ptrdiff_t>(landed));
  }

  // Ends the launch: the message goes to the error stream, and with an exception to the caller of the launcher.
  [[noreturn]] void fail(const std::string& what) {
    failure_ = place() + ", thread " + std::to_string(threadIdx.x) + ": " + what;
    fibers_[threadIdx.x]->switch_to(scheduler_);
    __builtin_unreachable();
  }

 private:
  struct Warp {
    unsigned runnable, arrived = 0, turn = 0;
    Site site;
    Slot slots[2][kWarp];  // in turns: a lane may be one exchange ahead of another that still reads
  };
  struct Barrier {
    unsigned arrived = 0, turn = 0;
    int votes[2] = {};
    Site site{};
  };
  struct Copy {
    void* to;
    const void* from;
    size_t size;
    int group;
    alignas(16) unsigned char bytes[16];
  };
  struct Copies {  // of a thread
    std::vector<Copy> pending;
    int groups = 0;  // committed
  };

  static void thread_main();

  void wake(unsigned warp, unsigned lanes) {
    warps_[warp].runnable |= lanes;
    with_work_ |= 1u << warp;
  }
  void stop_current() {
    const unsigned warp = threadIdx.x / kWarp;
    warps_[warp].runnable &= ~(1u << threadIdx.x % kWarp);
    if (warps_[warp].runnable == 0) with_work_ &= ~(1u << warp);
  }

  // Chooses who runs, and sets threadIdx for it.
  Fiber& next() {
    if (with_work_ == 0) {
      if (ended_ != threads_) failure_ = place() + ": " + who_waits();
      return scheduler_;
    }
    const unsigned warp = choice_.bit(with_work_);
    threadIdx.x = warp * kWarp + choice_.bit(warps_[warp].runnable);
    return *fibers_[threadIdx.x];
  }
  void go_on() {
    const unsigned me = threadIdx.x;
    Fiber& to = next();
    if (&to != fibers_[me].get()) fibers_[me]->switch_to(to);
  }

  void end_thread() {
    Copies& mine = copies_[threadIdx.x];
    if (!mine.pending.empty()) {
      fail(std::to_string(mine.pending.size()) + " asynchronous copies are still under way at the thread's end");
    }
    mine.groups = 0;
    ++ended_;
    stop_current();
    go_on();
  }

  std::string place() const {
    return "CUDA emulation: block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
           std::to_string(blockIdx.z) + ")";
  }
  std::string who_waits() const {
    std::string text =
        "not all threads arrive: " + std::to_string(ended_) + " of " + std::to_string(threads_) + " have ended";
    if (barrier_.arrived > 0) text += ", " + std::to_string(barrier_.arrived) + " wait in " + barrier_.site.text();
    for (unsigned w = 0; w < threads_ / kWarp; ++w) {
      if (warps_[w].arrived == 0) continue;
      text += ", " + std::to_string(warps_[w].arrived) + " lanes of warp " + std::to_string(w) + " wait in " +
              warps_[w].site.text();
    }
    return text;
  }

  void check_guards() {
    const unsigned char* const begin = memory_.get();
    for (size_t i = 0; i < 2 * kGuard; ++i) {
      const size_t at = i < kGuard ? i : i + shared_size_;
      if (begin[at] == 0xff) continue;
      failure_ = place() + ": write outside its " + std::to_string(shared_size_) +
                 " bytes of shared memory, at offset " +
                 std::to_string(static_cast<std::ptrdiff_t>(at) - static_cast<std::ptrdiff_t>(kGuard));
      abandon();
    }
  }

  // Threads stay where they are for ever; their fibers begin anew with the next launch.
  [[noreturn]] void abandon() {
    for (auto& fiber : fibers_) fiber->restart();
    for (auto& copies : copies_) copies = {};
    const std::string what = std::move(failure_);
    failure_.clear();
    std::fprintf(stderr, "%s\n", what.c_str());
    throw std::runtime_error(what);
  }

  const std::function<void()>* kernel_ = nullptr;
  unsigned threads_ = 0, ended_ = 0, with_work_ = 0;  // bits of warps that have a lane to run
  Choice choice_;
  Barrier barrier_;
  Warp warps_[kMaxWarps];
  Fiber scheduler_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Copies> copies_;
  size_t shared_size_ = 0;
  std::unique_ptr<unsigned char[]> memory_;
  std::string failure_;
};

inline Block running;  // one at a time

inline void Block::thread_main() {
  for (;;) {  // once per block: a fiber that has ended waits here for the next one
    (*running.kernel_)();
    running.end_thread();
  }
}

inline unsigned char* shared_memory() { return running.shared(); }
inline void copy_async(void* shared, const void* global, size_t bytes) { running.copy_async(shared, global, bytes); }
inline void commit_copies() { running.commit_copies(); }
inline void wait_for_copies(int pending) { running.wait_for_copies(pending); }

}  // namespace cuda_emulation
