// Buffers of floats that one call of an operator fills and a later call reads: packed weights, saved activations. Every
// buffer begins with a header of one cache line that says what it holds. In packed weights the form of every tensor
// they were made of follows, and digests of all its bytes: every call computes these again, so that no change goes
// unseen, whoever wrote into the tensors and by whatever means. Then comes the data. No framework header.
#pragma once

#include <cstdint>
#include <string>

#include "cpu/common/cpu_features.h"
#include "cpu/common/sources.h"

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
  int64_t before;  // floats before the data, this header among them
  char reserved[32];
};
static_assert(sizeof(PackedHeader) == 64, "one cache line, so that what follows stays aligned");

// The floats of a buffer with `floats` of data made of `sources`.
int64_t packed_floats(const Sources& sources, int64_t floats);

// Writes header, forms and digests, and has pack(sources, data) write the data, all from one snapshot of the sources.
template <class Pack>
void fill_packed(const PackedKind& kind, const Sources& sources, int64_t floats, float* memory,
                 const Parallel& parallel, const Pack& pack);

// The header of a matrix [1 + floats / columns, columns] in its first row, then zeros. Returns where the data goes.
float* start_packed_rows(const PackedKind& kind, int64_t columns, int64_t floats, float* memory);

// Where the data of a buffer of weights lies.
const float* packed_data(const float* memory);

// What is wrong with a buffer of `count` floats where one of this kind with `floats` of data is wanted; empty: nothing.
std::string packed_mismatch(const PackedKind& wanted, int64_t floats, const float* memory, int64_t count);

// Whether a buffer of weights, `count` floats, is cut off or too long.
bool packed_is_torn(const float* memory, int64_t count);

// Whether the tensors are what they were when the buffer of weights was made. Reads every byte of them.
bool packed_is_fresh(const Sources& sources, const float* memory, const Parallel& parallel);

// ---- details of fill_packed ----

// Writes header and forms. Returns where the digests go.
Digest* start_packed(const PackedKind& kind, const Sources& sources, int64_t floats, float* memory);

template <class Pack>
void fill_packed(const PackedKind& kind, const Sources& sources, int64_t floats, float* memory,
                 const Parallel& parallel, const Pack& pack) {
  const Snapshot snapshot(kind.isa, sources, start_packed(kind, sources, floats, memory), parallel);
  pack(snapshot.sources(), memory + packed_floats(sources, 0));
}

}  // namespace cnv2
