#include "packed.h"

#include <cstring>

#include "cpu/common/isa.h"

namespace cnv2 {
namespace {

constexpr int64_t kHeaderFloats = sizeof(PackedHeader) / sizeof(float);
constexpr int64_t kLine = 64;  // bytes, to whose multiples the data is aligned

int64_t forms_bytes(const Sources& sources) { return static_cast<int64_t>(sources.size() * sizeof(SourceForm)); }

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

int64_t packed_floats(const Sources& sources, int64_t floats) {
  const int64_t bytes = forms_bytes(sources) + digest_pieces(sources) * static_cast<int64_t>(sizeof(Digest));
  return kHeaderFloats + (bytes + kLine - 1) / kLine * kLine / static_cast<int64_t>(sizeof(float)) + floats;
}

Digest* start_packed(const PackedKind& kind, const Sources& sources, int64_t floats, float* memory) {
  const int64_t before = packed_floats(sources, 0);
  std::memset(memory, 0, static_cast<size_t>(before) * sizeof(float));
  const PackedHeader header{PackedHeader::kMagic, kind.op, kind.isa, kind.dtype, floats, before, {}};
  std::memcpy(memory, &header, sizeof(header));
  auto* forms = reinterpret_cast<SourceForm*>(memory + kHeaderFloats);
  for (const StridedArray& source : sources) *forms++ = form_of(source);
  return reinterpret_cast<Digest*>(forms);
}

float* start_packed_rows(const PackedKind& kind, int64_t columns, int64_t floats, float* memory) {
  std::memset(memory, 0, static_cast<size_t>(columns) * sizeof(float));
  const PackedHeader header{PackedHeader::kMagic, kind.op, kind.isa, kind.dtype, floats, columns, {}};
  std::memcpy(memory, &header, sizeof(header));
  return memory + columns;
}

const float* packed_data(const float* memory) { return memory + reinterpret_cast<const PackedHeader*>(memory)->before; }

std::string packed_mismatch(const PackedKind& wanted, int64_t floats, const float* memory, int64_t count) {
  PackedHeader h{};
  if (count >= kHeaderFloats) std::memcpy(&h, memory, sizeof(h));
  if (!is_known(h)) return "which no operator has made";
  const PackedKind found{h.op, h.isa, h.dtype};
  if (found.op == wanted.op && found.isa == wanted.isa && found.dtype == wanted.dtype && h.floats == floats) return {};
  return "made of " + text_of(found) + ", " + std::to_string(h.floats) + " floats, where " + text_of(wanted) + ", " +
         std::to_string(floats) + " floats, are wanted";
}

bool packed_is_torn(const float* memory, int64_t count) {
  const auto* header = reinterpret_cast<const PackedHeader*>(memory);
  return header->before < kHeaderFloats || header->before != count - header->floats;
}

bool packed_is_fresh(const Sources& sources, const float* memory, const Parallel& parallel) {
  const auto* header = reinterpret_cast<const PackedHeader*>(memory);
  if (header->before != packed_floats(sources, 0)) return false;  // other tensors: what follows has other places
  const auto* forms = reinterpret_cast<const SourceForm*>(memory + kHeaderFloats);
  for (const StridedArray& source : sources) {
    const SourceForm now = form_of(source);
    if (std::memcmp(&now, forms++, sizeof(now)) != 0) return false;
  }
  return digests_agree(header->isa, sources, reinterpret_cast<const Digest*>(forms), parallel);
}

}  // namespace cnv2
