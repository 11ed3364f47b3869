// Weights packed once and kept by Python: is a copy still that of its tensors?
//
// Python compares versions and addresses. Writes through `.data` change neither, so a copy begins with a sample of the
// values of every tensor it was made of.
#pragma once

#include <cstring>
#include <initializer_list>

#include "tensor_utils.h"

namespace cnv2 {

constexpr int64_t kSamples = 16;  // floats of a tensor: one cache line, so that what follows stays aligned

inline int64_t sample_floats(int64_t tensors) { return tensors * kSamples; }

inline float float_at(const Tensor& t, int64_t offset) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16:
      return to_float(static_cast<const BFloat16*>(t.const_data_ptr())[offset]);
    case ScalarType::Half:
      return to_float(static_cast<const Half*>(t.const_data_ptr())[offset]);
    default:
      return static_cast<const float*>(t.const_data_ptr())[offset];
  }
}

// Reads kSamples values of each tensor: float32, bfloat16 or float16, any strides; null: absent.
inline void sample(std::initializer_list<const Tensor*> tensors, float* out) {
  for (const Tensor* t : tensors) {
    const int64_t count = t == nullptr ? 0 : t->numel();
    const bool contiguous = count == 0 || t->is_contiguous();
    for (int64_t i = 0; i < kSamples; ++i, ++out) {
      *out = 0.f;
      if (count == 0) continue;
      int64_t index = (2 * i + 1) * count / (2 * kSamples), offset = contiguous ? index : 0;
      for (int64_t d = t->dim() - 1; d >= 0 && !contiguous; --d) {
        offset += index % t->size(d) * t->stride(d);
        index /= t->size(d);
      }
      *out = float_at(*t, offset);
    }
  }
}

inline bool stale(std::initializer_list<const Tensor*> tensors, const float* kept) {
  constexpr int64_t kMost = 16;
  float now[kMost * kSamples];
  sample(tensors, now);
  return std::memcmp(now, kept, tensors.size() * kSamples * sizeof(float)) != 0;
}

// The memory of a copy of `count` floats beyond its sample.
inline float* kept_data(const char* op, const Tensor& kept, int64_t count) {
  if (kept.dim() != 1 || kept.size(0) != count || kept.scalar_type() != ScalarType::Float || !kept.is_contiguous())
    refuse(op, "packed must come from this operator's pack, on this instruction set, for this dtype",
           describe("packed", kept));
  return static_cast<float*>(kept.mutable_data_ptr());
}

}  // namespace cnv2
