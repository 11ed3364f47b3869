// Buffers of floats that one call of an operator fills and a later call reads: packed weights, saved activations. Every
// buffer begins with a header of one cache line that says what it holds. In packed weights a sample of the values they
// were made of follows: Python packs anew when a tensor's version or address changes, and writes through `.data`, which
// change neither, show in the sample. Then comes the data. No framework header.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/common/array.h"
#include "cpu/common/cpu_features.h"

namespace cnv2 {

enum class PackedOp : uint32_t { kMlpGrn, kPatchConv, kBlock, kSavedHidden };

// A buffer is of use only to the op, the instruction set and the dtype it was made for.
struct PackedKind {
  PackedOp op;
  CpuIsa isa;
  DType dtype;
};

struct PackedHeader {
  static constexpr uint32_t kMagic = 0x32766e63;  // "cnv2"
  uint32_t magic;
  PackedOp op;
  CpuIsa isa;
  DType dtype;
  int64_t floats;  // of the data
  char reserved[40];
};
static_assert(sizeof(PackedHeader) == 64, "one cache line, so that what follows stays aligned");

using PackedSources = std::vector<StridedArray>;  // the tensors that a copy is made of

// The floats of a buffer with `floats` of data made of `sources` tensors.
int64_t packed_floats(size_t sources, int64_t floats);

// Writes the header and the sample. Returns where the data goes.
float* start_packed(const PackedKind& kind, const PackedSources& sources, int64_t floats, float* memory);

// The same for a matrix [1 + floats / columns, columns] whose first row is the header, then zeros.
float* start_packed_rows(const PackedKind& kind, int64_t columns, int64_t floats, float* memory);

// Where the data of a buffer of weights lies.
inline const float* packed_data(size_t sources, const float* memory) { return memory + packed_floats(sources, 0); }

// What is wrong with a buffer of `count` floats where one of this kind with `floats` of data is wanted; empty: nothing.
std::string packed_mismatch(const PackedKind& wanted, int64_t floats, const float* memory, int64_t count);

// Whether the sample in a buffer of weights is no longer that of the tensors.
bool packed_is_stale(const PackedSources& sources, const float* memory);

}  // namespace cnv2
