// The emulator of tests/cuda_emulation with its launch exchanged for one that counts: operators check, allocate and
// choose as ever, and no kernel runs.
#pragma once

#define cudaLaunchKernelEx launch_and_run
#include_next "cuda_emulation.h"
#undef cudaLaunchKernelEx

namespace cuda_emulation {
inline int64_t launches = 0;
}

template <class... Arguments>
cudaError_t cudaLaunchKernelEx(const Arguments&...) {
  ++cuda_emulation::launches;
  return cudaSuccess;
}
