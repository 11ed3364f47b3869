// Copies from global to shared memory that run beside the computation (cp.async, sm_80 and newer).
#pragma once

#include "cuda/common/api.h"

namespace cnv2 {

// Starts copying 16 bytes, both ends aligned to 16; writes zeros where not `live` (`global` is then not read).
__device__ inline void copy_async16(void* shared, const void* global, bool live) {
#ifdef CNV2_CUDA_EMULATION
  cuda_emulation::copy_async(shared, live ? global : nullptr, 16);
#else
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = live ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}

// Ends a group of this thread's copies.
__device__ inline void commit_copies() {
#ifdef CNV2_CUDA_EMULATION
  cuda_emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the kPending latest groups of this thread are under way. Other threads' copies need a barrier
// after.
template <int kPending>
__device__ inline void wait_for_copies() {
#ifdef CNV2_CUDA_EMULATION
  cuda_emulation::wait_for_copies(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace cnv2
