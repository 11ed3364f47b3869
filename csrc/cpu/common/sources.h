// The tensors that packed weights are made of: what is remembered of them, and copies of them. No framework header.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/common/array.h"
#include "cpu/common/parallel.h"
#include "cpu/digest/digest.h"

namespace cnv2 {

using Sources = std::vector<StridedArray>;

// The form of a tensor. Strides are those of memory without gaps or overlap; any other tensor counts as contiguous,
// since its elements are read in their order.
struct SourceForm {
  DType dtype;
  int32_t dims;                                                              // -1: there is no such tensor
  int64_t sizes[StridedArray::kMostDims], strides[StridedArray::kMostDims];  // zeros beyond dims and beside size 1
};
static_assert(sizeof(SourceForm) == 8 + 2 * 8 * StridedArray::kMostDims, "it is compared as bytes: no padding");

SourceForm form_of(const StridedArray& source);

// Pieces that all sources have together; each source begins one of its own.
int64_t digest_pieces(const Sources& sources);

// Whether these are still the digests [digest_pieces] of the sources. Reads every byte, unless it finds a change.
bool digests_agree(CpuIsa isa, const Sources& sources, const Digest* digests, const Parallel& parallel);

// Copies of the sources, all contiguous. The digests [digest_pieces] it writes are those of what it has copied, even
// while another thread writes into the sources.
class Snapshot {
 public:
  Snapshot(CpuIsa isa, const Sources& sources, Digest* digests, const Parallel& parallel);
  const Sources& sources() const { return sources_; }

 private:
  unsigned char* memory(int64_t bytes);

  Sources sources_;
  std::vector<std::unique_ptr<unsigned char[]>> memory_;
};

}  // namespace cnv2
