// Packed weights as the CPU operators take and return them: cpu/common/packed.h in tensors.
#pragma once

#include <optional>

#include "cpu/common/packed.h"
#include "cpu/common/scratch.h"
#include "parallel_cpu.h"

namespace cnv2 {

// Whether strided_of takes the tensor.
inline bool is_source(const Tensor& t) {
  return dtype_of(t).has_value() && (t.dim() <= StridedArray::kMostDims || t.is_contiguous());
}

inline StridedArray strided_of(const Tensor& t) {
  StridedArray out{array_of(t), 1, {t.numel()}, {1}};
  if (t.dim() > StridedArray::kMostDims) return out;
  out.dims = static_cast<int>(t.dim());
  for (int d = 0; d < out.dims; ++d) out.sizes[d] = t.size(d), out.strides[d] = t.stride(d);
  return out;
}

inline StridedArray strided_of(const std::optional<Tensor>& t) {
  return t.has_value() ? strided_of(*t) : StridedArray{};
}

// A new tensor of weights that pack(sources, memory) packs into `floats` floats. The tensor is complete before anyone
// else sees it, and made of one snapshot of the sources, although other threads may write into them meanwhile.
template <class Pack>
Tensor new_packed(const PackedKind& kind, const Sources& sources, int64_t floats_of_data, const Tensor& like,
                  const Pack& pack) {
  Tensor packed = floats(like, {packed_floats(sources, floats_of_data)});
  fill_packed(kind, sources, floats_of_data, float_data(packed), torch_parallel(), pack);
  return packed;
}

struct PackedUse {
  const float* data;
  Tensor repacked;  // for Python to keep in the place of a stale copy; empty: nothing to replace
};

// The weights as the kernel reads them: those of `packed`, unless a byte of the sources has changed since, else packed
// anew; without `packed` into this thread's scratch memory. Refuses what was packed by another operator, for another
// dtype or instruction set.
template <class Pack>
PackedUse packed_or_new(const char* op, const std::optional<Tensor>& packed, const PackedKind& kind,
                        const Sources& sources, int64_t floats_of_data, const Tensor& like, const Pack& pack) {
  PackedUse use{nullptr, floats(like, {0})};
  if (!packed.has_value()) {
    float* memory = thread_scratch(ScratchSlot::kWeights, floats_of_data);
    pack(sources, memory);
    use.data = memory;
    return use;
  }
  const bool flat = packed->dim() == 1 && packed->scalar_type() == ScalarType::Float && packed->is_contiguous();
  const auto* memory = static_cast<const float*>(packed->const_data_ptr());
  const std::string mismatch = packed_mismatch(kind, floats_of_data, memory, flat ? packed->numel() : 0);
  if (!mismatch.empty() || packed_is_torn(memory, packed->numel()))
    refuse(op, "packed must come from this operator's pack, on this instruction set, for this dtype",
           describe("packed", *packed), mismatch.empty() ? "which is of another length" : mismatch);
  if (!packed_is_fresh(sources, memory, torch_parallel())) {
    use.repacked = new_packed(kind, sources, floats_of_data, like, pack);
    memory = float_data(use.repacked);
  }
  use.data = packed_data(memory);
  return use;
}

}  // namespace cnv2
