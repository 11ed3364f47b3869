#include "scratch.h"

#include <cstddef>
#include <memory>

namespace cnv2 {
namespace {

struct Buffer {
  std::unique_ptr<char[]> memory;
  int64_t capacity = 0;  // floats
};
thread_local Buffer buffers[static_cast<int>(ScratchSlot::kCount)];

}  // namespace

float* thread_scratch(ScratchSlot slot, int64_t count) {
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

ReturnLargeScratch::~ReturnLargeScratch() {
  constexpr int64_t kKept = int64_t{8} << 20;  // 32 MiB
  for (Buffer& buffer : buffers) {
    if (buffer.capacity > kKept) buffer = {};
  }
}

}  // namespace cnv2
