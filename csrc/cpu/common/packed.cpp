#include "packed.h"

#include <cstring>

#include "cpu/common/dtype_switch.h"
#include "cpu/common/isa.h"

namespace cnv2 {
namespace {

constexpr int64_t kHeaderFloats = sizeof(PackedHeader) / sizeof(float);
constexpr int64_t kSampleFloats = 16;  // of each tensor: one cache line

// kSampleFloats values of a tensor, spread evenly over its elements; zeros for no tensor or an empty one.
void sample(const StridedArray& t, float* out) {
  int64_t count = t.array.data == nullptr ? 0 : 1;
  bool contiguous = true;
  for (int d = t.dims - 1; d >= 0; --d) {
    contiguous &= t.strides[d] == count || t.sizes[d] == 1;
    count *= t.sizes[d];
  }
  for (int64_t i = 0; i < kSampleFloats; ++i) {
    int64_t index = (2 * i + 1) * count / (2 * kSampleFloats), offset = contiguous ? index : 0;
    for (int d = t.dims - 1; d >= 0 && count > 0 && !contiguous; --d) {
      offset += index % t.sizes[d] * t.strides[d];
      index /= t.sizes[d];
    }
    out[i] = count > 0 ? float_at(t.array, offset) : 0.f;
  }
}

std::string text_of(const PackedKind& kind) {
  static constexpr const char* kOps[] = {"mlp_grn's weights", "patch_conv's weights", "block's weights",
                                         "mlp_grn's hidden activations"};
  static constexpr const char* kDtypes[] = {"float32", "bfloat16", "float16"};
  return std::string(kOps[static_cast<uint32_t>(kind.op)]) + " for " + kDtypes[static_cast<int>(kind.dtype)] + " on " +
         isa_name(kind.isa);
}

bool is_known(const PackedHeader& h) {
  return h.magic == PackedHeader::kMagic && h.op <= PackedOp::kSavedHidden && h.isa >= CpuIsa::kScalar &&
         h.isa <= CpuIsa::kAmx && h.dtype >= DType::kFloat32 && h.dtype <= DType::kFloat16;
}

}  // namespace

int64_t packed_floats(size_t sources, int64_t floats) {
  return kHeaderFloats + static_cast<int64_t>(sources) * kSampleFloats + floats;
}

float* start_packed(const PackedKind& kind, const PackedSources& sources, int64_t floats, float* memory) {
  const PackedHeader header{PackedHeader::kMagic, kind.op, kind.isa, kind.dtype, floats, {}};
  std::memcpy(memory, &header, sizeof(header));
  memory += kHeaderFloats;
  for (const StridedArray& source : sources) {
    sample(source, memory);
    memory += kSampleFloats;
  }
  return memory;
}

float* start_packed_rows(const PackedKind& kind, int64_t columns, int64_t floats, float* memory) {
  std::memset(memory, 0, columns * sizeof(float));
  start_packed(kind, {}, floats, memory);
  return memory + columns;
}

std::string packed_mismatch(const PackedKind& wanted, int64_t floats, const float* memory, int64_t count) {
  PackedHeader h{};
  if (count >= kHeaderFloats) std::memcpy(&h, memory, sizeof(h));
  if (!is_known(h)) return "which no operator has made";
  const PackedKind found{h.op, h.isa, h.dtype};
  if (found.op == wanted.op && found.isa == wanted.isa && found.dtype == wanted.dtype && h.floats == floats) return {};
  return "made of " + text_of(found) + ", " + std::to_string(h.floats) + " floats, where " + text_of(wanted) + ", " +
         std::to_string(floats) + " floats, are wanted";
}

bool packed_is_stale(const PackedSources& sources, const float* memory) {
  memory += kHeaderFloats;
  for (const StridedArray& source : sources) {
    float now[kSampleFloats];
    sample(source, now);
    if (std::memcmp(now, memory, sizeof(now)) != 0) return true;
    memory += kSampleFloats;
  }
  return false;
}

}  // namespace cnv2
