// Fibers: contexts of execution with stacks of their own, which run until they switch to another one themselves.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_EMULATION_ASAN 1
#endif
#endif
#ifndef CUDA_EMULATION_ASAN
#define CUDA_EMULATION_ASAN 0
#endif

#if CUDA_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(CUDA_EMULATION_UCONTEXT)
#define CUDA_EMULATION_UCONTEXT
#endif
#ifdef CUDA_EMULATION_UCONTEXT
#include <ucontext.h>
#endif

namespace cuda_emulation {

#ifndef CUDA_EMULATION_UCONTEXT
// Saves the registers that a call preserves and the stack pointer, in *from, and goes on where `to` was saved. ucontext
// would cost two system calls. Opaque to the optimizer: what runs in between changes everything else.
#ifdef __clang__
__attribute__((naked, noinline))
#else
__attribute__((naked, noinline, noipa))
#endif
inline void switch_stacks(void** /* rdi: from */, void* /* rsi: to */) {
  asm volatile(
      "pushq %%rbp\n\tpushq %%rbx\n\tpushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
      "movq %%rsp, (%%rdi)\n\tmovq %%rsi, %%rsp\n\t"
      "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\tpopq %%rbx\n\tpopq %%rbp\n\tret" ::
          : "memory");
}
#endif

class Fiber {
 public:
  static constexpr size_t kStack = 256 * 1024;  // of address space; pages are taken when touched

  // The context that is running: a place to switch from and back to.
  Fiber() = default;
  // One that will run body() when it is first switched to. The body must not return.
  Fiber(void (*body)(), unsigned number) : body_(body), colour_(number % 16 * 192) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* const all = mmap(nullptr, kStack + page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    mprotect(all, page, PROT_NONE);  // an overflow ends here
    bottom_ = static_cast<unsigned char*>(all) + page;
    size_ = kStack;
    restart();
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Forgets where it was: the next switch to it begins its body.
  void restart() {
#if CUDA_EMULATION_ASAN
    __asan_unpoison_memory_region(bottom_, size_);
    fake_stack_ = nullptr;
#endif
#ifdef CUDA_EMULATION_UCONTEXT
    getcontext(&context_);
    context_.uc_stack.ss_sp = const_cast<void*>(bottom_);
    context_.uc_stack.ss_size = size_ - colour_;
    makecontext(&context_, &Fiber::enter, 0);
#else
    // Stacks begin at different offsets, or their tops would all fall into the same few lines of the cache.
    auto** const top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(bottom_) + size_ - colour_);
    for (int i = 1; i <= 8; ++i) top[-i] = nullptr;
    top[-2] = reinterpret_cast<void*>(&Fiber::enter);  // below a return address of nobody; then six registers
    saved_ = top - 8;
#endif
  }

  // Leaves this fiber, which is the running one, for `to`; returns when something switches back.
  void switch_to(Fiber& to) {
    last_left = this;
    entered = &to;
#if CUDA_EMULATION_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.size_);
#endif
#ifdef CUDA_EMULATION_UCONTEXT
    swapcontext(&context_, &to.context_);
#else
    switch_stacks(&saved_, to.saved_);
#endif
    arrived(fake_stack_);
  }

 private:
  static void arrived(void* fake_stack) {
#if CUDA_EMULATION_ASAN  // it also says where the stack is that was left, which nobody else knows of the first one
    __sanitizer_finish_switch_fiber(fake_stack, &last_left->bottom_, &last_left->size_);
#else
    (void)fake_stack;
#endif
  }
  static void enter() {
    arrived(nullptr);
    entered->body_();
    __builtin_trap();
  }

  inline static Fiber* last_left = nullptr;
  inline static Fiber* entered = nullptr;

  void (*body_)() = nullptr;
  size_t colour_ = 0;
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
#ifdef CUDA_EMULATION_UCONTEXT
  ucontext_t context_;
#else
  void* saved_ = nullptr;
#endif
};

}  // namespace cuda_emulation
