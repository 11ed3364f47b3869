// The operators' arguments that describe groups of rows: src/convnextv2_fast/ops/_shared/groups.py.
#pragma once

#include "common/row_groups.h"
#include "tensor_utils.h"

namespace cnv2 {

inline RowGroups groups_of(const char* op, const Tensor& x, int64_t rows_per_group, int64_t groups,
                           const std::optional<Tensor>& row_group, const std::optional<Tensor>& offsets) {
  const auto need = [&](bool ok, const char* wants) {
    if (!ok) refuse(op, wants, describe("x", x), describe("row_group", row_group), describe("offsets", offsets));
  };
  need(x.dim() == 2 && x.size(1) >= 1 && x.is_contiguous(), "x must be contiguous rows [T, C]");
  need(dtype_of(x).has_value(), "x must be float32, bfloat16 or float16");
  need(x.size(1) < (int64_t{1} << 24), "there must be fewer than 2^24 channels");
  RowGroups found{x.size(0), groups, rows_per_group, nullptr};
  if (offsets.has_value()) {
    need(offsets->dim() == 1 && offsets->size(0) == groups + 1 && offsets->is_contiguous() &&
             offsets->scalar_type() == ScalarType::Int && offsets->device() == x.device(),
         "offsets must be contiguous int32 [groups + 1]");
    found.offsets = static_cast<const int*>(offsets->const_data_ptr());
  } else {
    need(rows_per_group >= 1 && rows_per_group * groups == x.size(0), "groups must hold all rows");
  }
  return found;
}

// Refuses what is no contiguous vector [C] in x's dtype or float32.
inline DType vector_dtype(const char* op, const char* name, const Tensor& x, int64_t columns, const Tensor& v) {
  if (v.dim() != 1 || v.size(0) != columns || !v.is_contiguous() || v.device() != x.device() ||
      (v.scalar_type() != ScalarType::Float && v.scalar_type() != x.scalar_type()))
    refuse(op, std::string(name) + " must be a contiguous vector in x's dtype or float32, one element a column",
           describe("x", x), describe(name, v));
  return *dtype_of(v);
}

// Refuses what is not like x.
inline void check_like(const char* op, const char* name, const Tensor& x, const Tensor& other) {
  if (other.dim() != 2 || other.size(0) != x.size(0) || other.size(1) != x.size(1) || !other.is_contiguous() ||
      other.scalar_type() != x.scalar_type() || !(other.device() == x.device()))
    refuse(op, std::string(name) + " must be like x", describe("x", x), describe(name, other));
}

// Refuses what is not float32 [groups, columns].
inline const float* of_groups(const char* op, const char* name, const Tensor& x, const RowGroups& groups,
                              int64_t columns, const Tensor& t) {
  if (t.dim() != 2 || t.size(0) != groups.count || t.size(1) != columns || !t.is_contiguous() ||
      t.scalar_type() != ScalarType::Float || !(t.device() == x.device()))
    refuse(op, std::string(name) + " must be contiguous float32 [groups, C] on x's device", describe(name, t));
  return static_cast<const float*>(t.const_data_ptr());
}

// Whether all these [T, C] tensors are made of 16-byte vectors.
template <class... Tensors>
bool rows_of_vectors(const Tensor& x, const Tensors&... others) {
  const auto fits = [](const Tensor& t) {
    return t.size(1) * static_cast<int64_t>(t.element_size()) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
  };
  return fits(x) && (fits(others) && ...);
}

}  // namespace cnv2
