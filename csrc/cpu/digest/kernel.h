// The digest of a piece, a template over how kGroup bytes at a time are added to the sums.
#pragma once

#include <cstring>

#include "cpu/common/unroll.h"
#include "digest.h"

namespace cnv2 {
namespace {

constexpr int64_t kGroup = 32, kGroupKeys = kGroup / 4;

struct DigestKeys {
  alignas(64) uint32_t keys[kDigestPiece / 4 + kGroupKeys] = {};

  constexpr DigestKeys() {  // splitmix64
    uint64_t state = 0;
    for (uint32_t& key : keys) {
      uint64_t z = state += 0x9e3779b97f4a7c15u;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      key = static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
    }
  }
};
constexpr DigestKeys kDigestKeys;

// Sums::add(group, keys) takes the keys of the group, then those of the next, with which the shifted products are made.
// A last group that is not whole is completed with zeros.
template <class Sums>
Digest digest_of(const void* memory, int64_t bytes) {
  constexpr int64_t kAhead = 1536;  // the processor's own prefetching stops at the end of a page
  const auto* group = static_cast<const unsigned char*>(memory);
  const uint32_t* keys = kDigestKeys.keys;
  Sums sums;
  for (; bytes >= kGroup; bytes -= kGroup, group += kGroup, keys += kGroupKeys) {
    __builtin_prefetch(group + kAhead);
    sums.add(group, keys);
  }
  if (bytes > 0) {
    unsigned char last[kGroup] = {};
    std::memcpy(last, group, static_cast<size_t>(bytes));
    sums.add(last, keys);
  }
  return sums.digest();
}

}  // namespace
}  // namespace cnv2
