// The switch from a DType to the type that is in memory. No framework header.
#pragma once

#include <type_traits>

#include "cpu/common/array.h"

namespace cnv2 {
namespace {

template <class Void, class Stored>
using ConstAs = std::conditional_t<std::is_const_v<Void>, const Stored, Stored>;

// The storage type behind a pointer, const or not, that with_dtype gave.
template <class Pointer>
using StoredAs = std::remove_const_t<std::remove_pointer_t<Pointer>>;

// Calls body(data) with `data` as a pointer to float, BFloat16 or Half, const where `Void` is const void.
template <class Void, class F>
void with_dtype(DType dtype, Void* data, const F& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(static_cast<ConstAs<Void, float>*>(data));
    case DType::kBFloat16:
      return body(static_cast<ConstAs<Void, BFloat16>*>(data));
    case DType::kFloat16:
      return body(static_cast<ConstAs<Void, Half>*>(data));
  }
}

inline float float_at(const ConstArray& array, int64_t index) {
  float value = 0.f;
  with_dtype(array.dtype, array.data, [&](auto* data) { value = to_float(data[index]); });
  return value;
}

}  // namespace
}  // namespace cnv2
