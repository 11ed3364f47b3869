// What the torch-aware translation units share: the stable tensor type, argument checks, dtypes.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
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

// A tensor on x's device; contiguous where there are no strides. Every operator asks for memory a few times in each
// call, so this takes the direct way; torch::stable::new_empty looks its operator up by name, which takes three times
// as long.
inline Tensor empty_strided(const Tensor& x, const int64_t* sizes, const int64_t* strides, int64_t ndim,
                            ScalarType type) {
  int32_t kind = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &kind));
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(ndim, sizes, strides, dtype, kind, x.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor empty_strided(const Tensor& x, std::initializer_list<int64_t> sizes,
                            std::initializer_list<int64_t> strides, ScalarType type) {
  return empty_strided(x, sizes.begin(), strides.begin(), static_cast<int64_t>(sizes.size()), type);
}

inline Tensor empty(const Tensor& x, const int64_t* sizes, int64_t ndim, ScalarType type) {
  constexpr int64_t kMost = 8;
  if (ndim > kMost) throw std::invalid_argument("more than 8 dimensions");
  int64_t strides[kMost], step = 1;
  for (int64_t d = ndim; d-- > 0;) {
    strides[d] = step;
    step *= sizes[d] > 1 ? sizes[d] : 1;
  }
  return empty_strided(x, sizes, strides, ndim, type);
}

inline Tensor empty(const Tensor& x, std::initializer_list<int64_t> sizes, ScalarType type) {
  return empty(x, sizes.begin(), static_cast<int64_t>(sizes.size()), type);
}

// x's shape, dtype and device, contiguous (torch's empty_like would keep odd strides of dimensions of size 1).
inline Tensor new_contiguous(const Tensor& x) { return empty(x, x.sizes().data(), x.dim(), x.scalar_type()); }

inline Tensor floats(const Tensor& x, std::initializer_list<int64_t> sizes) {
  return empty(x, sizes, ScalarType::Float);
}

inline float* float_data(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

}  // namespace cnv2
