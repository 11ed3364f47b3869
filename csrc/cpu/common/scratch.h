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

}  // namespace cnv2
