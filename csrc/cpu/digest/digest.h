// Digests of memory, by which a later call sees whether a single byte of it has changed. No framework header.
//
// A piece of at most kDigestPiece bytes has three sums modulo 2^64 over its words of 64 bits, each the pair of 32 bits
// (low, high). `plain` adds the words themselves: it differs whenever one word alone has changed, whatever the change.
// Each of the two others adds the products (low + key) * (high + key'), with keys of their own for every place: the
// hash NH of UMAC (RFC 4418), its second instance with shifted keys. For keys drawn at random two given pieces that
// differ anywhere have equal products with a probability of at most 2^-64. The keys are fixed, so this holds for
// changes made without regard to them. The sums of a piece depend on neither the instruction set nor the number of
// threads.
#pragma once

#include <cstdint>

#include "cpu/common/isa_table.h"

namespace cnv2 {

constexpr int64_t kDigestPiece = 4096;

struct Digest {
  uint64_t products, shifted_products, plain;

  bool operator==(const Digest& other) const {
    return products == other.products && shifted_products == other.shifted_products && plain == other.plain;
  }
};

struct DigestCpu {
  Digest (*of)(const void* memory, int64_t bytes);  // at most kDigestPiece bytes
};

// Memory is no faster than AVX2.
#define CNV2_DIGEST_ISAS(each, ...) each(Scalar, __VA_ARGS__) CNV2_IF_AVX2(each(Avx2, __VA_ARGS__))
CNV2_ISA_TABLE(CNV2_DIGEST_ISAS, DigestCpu, kDigest, digest_cpu)

}  // namespace cnv2
