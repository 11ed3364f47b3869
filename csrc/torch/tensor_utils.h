// What the torch-aware translation units share: the stable tensor type, argument checks, dtypes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/dtype.h"

namespace cnv2 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    default:
      return torch::headeronly::toString(type);
  }
}

// "x (2, 7, 7, 8) float32"
inline std::string describe(const char* name, const Tensor& t) {
  std::ostringstream out;
  out << name << " (";
  for (int64_t d = 0; d < t.dim(); ++d) out << (d ? ", " : "") << t.size(d);
  out << (t.dim() == 1 ? ",) " : ") ") << name_of(t.scalar_type()) << (t.is_contiguous() ? "" : ", not contiguous");
  return out.str();
}

inline std::string describe(const char* name, const std::optional<Tensor>& t) {
  return t.has_value() ? describe(name, *t) : std::string(name) + " None";
}

// Python sees a ValueError of one line: "op: what it wants; got the tensors".
template <class... Described>
[[noreturn]] void refuse(const char* op, const std::string& wants, const Described&... got) {
  std::ostringstream out;
  const char* separator = "; got ";
  out << op << ": " << wants;
  ((out << separator << got, separator = ", "), ...);
  throw std::invalid_argument(out.str());
}

inline std::optional<DType> dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      return std::nullopt;
  }
}

// x's shape, dtype and device, contiguous (torch's empty_like would keep odd strides of dimensions of size 1).
inline Tensor new_contiguous(const Tensor& x) { return torch::stable::new_empty(x, x.sizes()); }

inline Tensor floats(const Tensor& x, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(x, sizes, ScalarType::Float);
}

inline float* float_data(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

}  // namespace cnv2
