// Runs CUDA kernels on the CPU: the threads of a block as fibers on one core, with barriers, warp shuffles and shared
// memory. Kernels and launchers compile as plain C++ with -DCNV2_CUDA_EMULATION and this folder on the include path.
//
// A fiber runs until it waits at a barrier or a shuffle; then the next one runs. A barrier that not all threads of the
// block reach, or a shuffle that not all lanes of the warp reach, is reported and ends the program.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = void*;

namespace cuda_emulation {

struct Device {  // an H100, for the launchers' choices
  int processors = 132;
  int64_t shared_bytes = 227 * 1024, shared_bytes_per_processor = 228 * 1024;
  int capability = 90;
};
inline Device device;

struct Group {  // threads that wait for each other
  int size = 0, arrived = 0, generation = 0;
};

class Block {
 public:
  static constexpr size_t kStack = 128 * 1024;
  static constexpr size_t kGuard = 256;

  Block(unsigned threads, int64_t shared_bytes, const std::function<void()>& kernel)
      : kernel_(kernel), fibers_(threads), shared_size_(shared_bytes), shared_(shared_bytes + 2 * kGuard + 16, '\xff') {
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
  void warp_barrier() { wait(warps_[current_ / 32]); }

  // What lane `from` of this warp passes.
  uint64_t exchange(uint64_t value, unsigned from) {
    exchange_[current_] = value;
    warp_barrier();
    const uint64_t other = exchange_[current_ / 32 * 32 + from % 32];
    warp_barrier();
    return other;
  }

  unsigned current() const { return current_; }

  unsigned char* shared() {
    auto* base = reinterpret_cast<unsigned char*>(shared_.data()) + kGuard;
    return base + (16 - reinterpret_cast<uintptr_t>(base) % 16) % 16;
  }

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
  int64_t shared_size_;
  std::vector<char> shared_;
  std::vector<uint64_t> exchange_;
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
      std::fprintf(stderr, "deadlock: not every thread reaches a barrier or a shuffle\n");
      std::abort();
    }
  }
  running = nullptr;
}

inline unsigned char* shared_memory() { return running->shared(); }

inline void copy_async(void* shared, const void* global, size_t bytes) {
  if (global != nullptr)
    std::memcpy(shared, global, bytes);
  else
    std::memset(shared, 0, bytes);
}
inline void commit_copies() {}
inline void wait_for_copies(int) {}

template <class T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8, "");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = running->exchange(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_emulation

inline dim3 blockIdx, blockDim, gridDim;

struct ThreadIndex {
  struct X {
    operator unsigned() const { return cuda_emulation::running->current(); }
  } x;
};
inline ThreadIndex threadIdx;

inline void __syncthreads() { cuda_emulation::running->barrier(); }
inline void __syncwarp(unsigned = ~0u) { cuda_emulation::running->warp_barrier(); }

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return cuda_emulation::exchange(value, static_cast<unsigned>(from));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_emulation::exchange(value, threadIdx.x % 32 ^ static_cast<unsigned>(mask));
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) votes |= cuda_emulation::exchange(vote ? 1u : 0u, lane) << lane;
  return votes;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __fdividef(float a, float b) { return a / b; }
using std::max;
using std::min;

namespace cuda_emulation {

// kernel(): the call of the kernel with its arguments, as every thread makes it.
inline cudaError_t launch(dim3 grid, unsigned threads, int64_t shared_bytes, const std::function<void()>& kernel) {
  if (shared_bytes > device.shared_bytes || threads > 1024 || threads % 32 != 0) return cudaErrorInvalidValue;
  gridDim = grid;
  blockDim = dim3(threads);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) Block(threads, shared_bytes, kernel).run();
    }
  }
  return cudaSuccess;
}

}  // namespace cuda_emulation
