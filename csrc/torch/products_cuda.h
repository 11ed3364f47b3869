// The framework's matrix products, called below autograd and autocast, which have nothing to do here; and views of
// memory for them.
#pragma once

#include "cuda_scope.h"

namespace cnv2 {

// A view of t with these sizes and strides, from its first element.
inline Tensor view_of(const Tensor& t, const int64_t* sizes, const int64_t* strides, int64_t ndim) {
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(t.get(), ndim, sizes, strides, 0, &made));
  return Tensor(made);
}

inline Tensor view_of(const Tensor& t, std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides) {
  return view_of(t, sizes.begin(), strides.begin(), static_cast<int64_t>(sizes.size()));
}

inline Tensor rows_view(const Tensor& t, int64_t rows, int64_t columns) {
  return view_of(t, {rows, columns}, {columns, 1});
}

// The transpose of contiguous t [rows, columns].
inline Tensor transposed(const Tensor& t) { return view_of(t, {t.size(1), t.size(0)}, {1, t.size(1)}); }

// A piece of a memory of bytes as a contiguous tensor.
inline Tensor pool_view(const Tensor& memory, int64_t offset, ScalarType type, std::initializer_list<int64_t> sizes) {
  int64_t strides[3], step = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    step *= sizes.begin()[d];
  }
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__alloc_from_pool(
      memory.get(), offset, dtype, static_cast<int64_t>(sizes.size()), sizes.begin(), strides, &made));
  return Tensor(made);
}

// Where the pieces of one allocation begin, in bytes.
class Pieces {
 public:
  int64_t place(int64_t bytes) {
    constexpr int64_t kAligned = 256;
    const int64_t at = (size_ + kAligned - 1) / kAligned * kAligned;
    size_ = at + bytes;
    return at;
  }
  int64_t place_floats(int64_t count) { return place(count * int64_t{sizeof(float)}); }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
};

// out = a b, of matrices in one dtype.
inline void product(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(CNV2_PRODUCTS(mm_out)(out.get(), a.get(), b.get()));
}

// out = a b, with `vector` added to each row, all in one dtype.
inline void product_plus(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& vector) {
  STABLE_TORCH_ERROR_CODE_CHECK(CNV2_PRODUCTS(addmm_out)(out.get(), vector.get(), a.get(), b.get(), 1.0, 1.0));
}

// out[i] = a[i] b[i].
inline void batched_product(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(CNV2_PRODUCTS(bmm_out)(out.get(), a.get(), b.get()));
}

// a b in `type`: that of a and b or, of 16-bit matrices, float32, as their product is before it is rounded.
inline Tensor product_as(ScalarType type, const Tensor& a, const Tensor& b) {
  if (type != a.scalar_type()) return product_in_float32(a, b);
  Tensor out = empty(a, {a.size(0), b.size(1)}, type);
  product(out, a, b);
  return out;
}

}  // namespace cnv2
