// In which order the threads of a block run where they could all run, and the blocks of a grid.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace cuda_emulation {

// A thread runs until it waits; then the first of those that can run, in this order of warps and of lanes, goes on.
// What needs a barrier that is missing comes out wrong in some order: the reader runs before the writer.
struct Order {
  enum Kind { kForward, kReverse, kRandom } kind = kForward;
  uint64_t seed = 0;

  // "forward", "reverse" or "random:SEED"
  static Order parse(const std::string& text) {
    if (text.empty() || text == "forward") return {};
    if (text == "reverse") return {kReverse, 0};
    if (text.rfind("random:", 0) == 0) return {kRandom, std::strtoull(text.c_str() + 7, nullptr, 10)};
    throw std::invalid_argument("CUDA_EMULATION_ORDER is '" + text + "', not forward, reverse or random:SEED");
  }
  static Order of_environment() {
    const char* const text = std::getenv("CUDA_EMULATION_ORDER");
    return parse(text == nullptr ? "" : text);
  }
};
inline Order order = Order::of_environment();

class Choice {
 public:
  // The same choices for the same block in every launch, whatever ran before.
  void begin(uint64_t block) { state_ = (order.seed + 1) * 0x9e3779b97f4a7c15u ^ (block + 1) * 0xbf58476d1ce4e5b9u; }

  // Position of one of the bits, of which there is at least one.
  unsigned bit(unsigned bits) {
    if (order.kind == Order::kForward) return static_cast<unsigned>(__builtin_ctz(bits));
    if (order.kind == Order::kReverse) return 31u - static_cast<unsigned>(__builtin_clz(bits));
    const unsigned by = draw() % 32;
    const unsigned turned = bits >> by | bits << (32 - by) % 32;
    return (static_cast<unsigned>(__builtin_ctz(turned)) + by) % 32;
  }

 private:
  unsigned draw() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<unsigned>(state_ >> 32);
  }
  uint64_t state_ = 1;
};

// The i-th of `count` blocks to run.
inline uint64_t block_number(uint64_t i, uint64_t count) {
  if (order.kind == Order::kForward) return i;
  if (order.kind == Order::kReverse || count >> 31) return count - 1 - i;
  constexpr uint64_t kStep = 2147483647;  // a prime above every count: each block comes once
  return (i * kStep + order.seed) % count;
}

}  // namespace cuda_emulation
