// Working memory of the CPU kernels: one growing buffer per thread and slot, kept for the next call.
#pragma once

#include <cstdint>

namespace cnv2 {

enum class ScratchSlot : int {
  kParameters,
  kTile,
  kChunk,
  kGroups,
  kVectors,
  kOperand,
  kWeights,
  kBlock,
  kModel,
  kCount
};

// `count` floats, 64-byte aligned, uninitialised; valid until this thread asks for the same slot again.
// Throws std::bad_alloc.
float* thread_scratch(ScratchSlot slot, int64_t count);

// At the end of its scope, returns every buffer of this thread of more than 32 MiB: what a large image needed once
// would otherwise stay with each thread that serves.
struct ReturnLargeScratch {
  ReturnLargeScratch() = default;
  ReturnLargeScratch(const ReturnLargeScratch&) = delete;
  ReturnLargeScratch& operator=(const ReturnLargeScratch&) = delete;
  ~ReturnLargeScratch();
};

}  // namespace cnv2
