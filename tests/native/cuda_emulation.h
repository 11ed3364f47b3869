// Runs CUDA kernels on the CPU: the threads of a block as fibers on one core, with barriers, warp shuffles and shared
// memory. Include it before a kernel's .cuh, which is then plain C++; compile with -include to reach every header.
//
// A fiber runs until it waits at a barrier or a shuffle; then the next one runs. A barrier that not all threads of the
// block reach, or a shuffle that not all lanes of the warp reach, is reported and ends the program.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(...)

namespace cuda_emulation {

struct Index {
  unsigned x = 0;
};

struct Group {  // threads that wait for each other
  int size = 0, arrived = 0, generation = 0;
};

class Block {
 public:
  static constexpr size_t kStack = 128 * 1024;

  Block(unsigned threads, std::function<void()> kernel) : kernel_(std::move(kernel)), fibers_(threads) {
    block_.size = static_cast<int>(threads);
    warps_.resize((threads + 31) / 32);
    exchange_.resize(threads);
    for (auto& warp : warps_) warp.size = 32;
  }

  void run();

  void wait(Group& group) {
    const int generation = group.generation;
    if (++group.arrived == group.size) {
      group.arrived = 0;
      ++group.generation;
      return;
    }
    while (group.generation == generation) {
      if (_setjmp(fibers_[current_].resume) == 0) _longjmp(scheduler_, 1);
    }
  }

  void barrier() { wait(block_); }

  float shuffle_xor(float value, int mask) {
    exchange_[current_] = value;
    wait(warps_[current_ / 32]);
    const float other = exchange_[current_ ^ static_cast<unsigned>(mask)];
    wait(warps_[current_ / 32]);
    return other;
  }

  unsigned current() const { return current_; }

 private:
  struct Fiber {
    ucontext_t context;  // to start it
    jmp_buf resume;      // to go on: swapcontext would cost two system calls
    std::unique_ptr<char[]> stack;
    bool started = false, done = false;
  };

  static void enter();

  // Runs the current fiber until it waits or ends.
  void resume() {
    Fiber& fiber = fibers_[current_];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }

  std::function<void()> kernel_;
  std::vector<Fiber> fibers_;
  std::vector<float> exchange_;
  std::vector<Group> warps_;
  Group block_;
  jmp_buf scheduler_;
  unsigned current_ = 0;
};

inline Block* running = nullptr;

inline void Block::enter() {
  running->kernel_();
  running->fibers_[running->current_].done = true;
  _longjmp(running->scheduler_, 1);
}

inline void Block::run() {
  running = this;
  for (auto& fiber : fibers_) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, &Block::enter, 0);
  }
  for (size_t left = fibers_.size(), idle = 0; left > 0;) {
    for (current_ = 0; current_ < fibers_.size(); ++current_) {
      if (fibers_[current_].done) continue;
      const int before = block_.generation;
      resume();
      left -= fibers_[current_].done;
      idle = fibers_[current_].done || block_.generation != before ? 0 : idle + 1;
    }
    if (idle > 10000 * fibers_.size()) {
      std::printf("deadlock: not every thread reaches a barrier or a shuffle\n");
      std::exit(1);
    }
  }
  running = nullptr;
}

}  // namespace cuda_emulation

inline cuda_emulation::Index blockIdx, blockDim, gridDim;

struct ThreadIndex {
  struct X {
    operator unsigned() const { return cuda_emulation::running->current(); }
  } x;
};
inline ThreadIndex threadIdx;

inline void __syncthreads() { cuda_emulation::running->barrier(); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  return cuda_emulation::running->shuffle_xor(value, mask);
}

namespace cuda_emulation {

// kernel(): the call of the kernel with its arguments, as every thread makes it.
inline void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) Block(threads, kernel).run();
}

}  // namespace cuda_emulation
