// Working memory of the CPU kernels: one growing buffer per thread and slot, kept for the next call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace cnv2 {

enum class ScratchSlot : int { kParameters = 0, kTile = 1, kCount = 2 };

// `count` floats, 64-byte aligned, uninitialised; valid until this thread asks for the same slot again.
// Throws std::bad_alloc.
inline float* thread_scratch(ScratchSlot slot, int64_t count) {
  struct Buffer {
    std::unique_ptr<char[]> memory;
    int64_t capacity = 0;
  };
  static thread_local Buffer buffers[static_cast<int>(ScratchSlot::kCount)];
  constexpr int64_t kAlign = 64;
  Buffer& buffer = buffers[static_cast<int>(slot)];
  if (buffer.capacity < count) {
    buffer.memory.reset();
    buffer.capacity = 0;
    buffer.memory.reset(new char[static_cast<size_t>(count) * sizeof(float) + kAlign]);
    buffer.capacity = count;
  }
  const auto address = reinterpret_cast<uintptr_t>(buffer.memory.get());
  return reinterpret_cast<float*>((address + kAlign - 1) / kAlign * kAlign);
}

}  // namespace cnv2
