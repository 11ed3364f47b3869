// Vectors of adjacent elements, loaded and stored as one word of up to 16 bytes, worked on as float32.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/dtype.h"
#include "cuda/common/platform.cuh"

namespace cnv2 {

template <int kBytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

// How many elements of T 16 bytes hold.
template <class T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

// Whether the hardware converts kCount elements of T two at a time.
template <class T, int kCount>
constexpr bool kPaired = sizeof(T) == 2 && kCount % 2 == 0;

// kCount elements of T as they lie in memory.
template <class T, int kCount>
struct Vector {
  using Word = typename WordOf<sizeof(T) * kCount>::type;
  static constexpr int kParts = kPaired<T, kCount> ? kCount / 2 : kCount;
  union {
    Word word;
    T element[kCount];
    std::conditional_t<kPaired<T, kCount>, unsigned, T> part[kParts];  // pairs, or else single elements
  };
};

// Rounds to T.
template <class T, int kCount>
__device__ inline Vector<T, kCount> pack_vector(const float (&in)[kCount]) {
  Vector<T, kCount> v;
#pragma unroll
  for (int i = 0; i < v.kParts; ++i) {
    if constexpr (kPaired<T, kCount>)
      v.part[i] = pack_pair<T>(in[2 * i], in[2 * i + 1]);
    else
      store_float(&v.part[i], in[i]);
  }
  return v;
}

template <class T, int kCount>
__device__ inline void unpack_vector(const Vector<T, kCount>& v, float (&out)[kCount]) {
#pragma unroll
  for (int i = 0; i < v.kParts; ++i) {
    if constexpr (kPaired<T, kCount>)
      unpack_pair<T>(v.part[i], &out[2 * i], &out[2 * i + 1]);
    else
      out[i] = load_float(&v.part[i]);
  }
}

// `p` must be aligned to the vector's size.
template <int kCount, class T>
__device__ inline void load_vector(const T* p, float (&out)[kCount]) {
  Vector<T, kCount> v;
  v.word = *reinterpret_cast<const typename Vector<T, kCount>::Word*>(p);
  unpack_vector(v, out);
}

// Vectors of 16 bytes can only be stored to global memory, smaller ones anywhere.
template <class T, int kCount>
__device__ inline void store_packed(T* p, const Vector<T, kCount>& v) {
  if constexpr (sizeof(v) == 16)
    store_global16(p, v.word);
  else
    *reinterpret_cast<typename Vector<T, kCount>::Word*>(p) = v.word;
}

template <int kCount, class T>
__device__ inline void store_vector(T* p, const float (&in)[kCount]) {
  store_packed(p, pack_vector<T>(in));
}

// Element `i` of a parameter that is stored in `dtype`: one branch, the same for all threads.
__device__ inline float load_param(const void* p, DType dtype, int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(p)[i];
  if (dtype == DType::kBFloat16) return load_float(static_cast<const BFloat16*>(p) + i);
  return load_float(static_cast<const Half*>(p) + i);
}

// Whether rows of `columns` elements of `size` bytes, and these pointers, allow vectors of 16 bytes.
template <class... Pointers>
bool is_aligned16(int64_t columns, int64_t size, const Pointers*... pointers) {
  return columns * size % 16 == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace cnv2
