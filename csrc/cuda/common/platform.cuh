// The one place that knows whether the kernels are compiled for a GPU or for the tests' emulation of one, in which they
// are plain C++ on the CPU. The emulation (tests/cuda_emulation) has CUDA's names and its own version of every function
// of instructions.cuh, so no other file asks.
#pragma once

#ifdef CNV2_CUDA_EMULATION
#include "cuda_emulation.h"
constexpr int kKnownDevices = 0;  // tests exchange the device
#else
constexpr int kKnownDevices = 64;  // devices whose properties are kept
#include <cuda_runtime_api.h>
#ifdef __CUDACC__  // C++ files include this too, for the runtime's types; they have no device code
#include "cuda/common/instructions.cuh"
#endif
#endif
