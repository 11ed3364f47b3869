// What the checks of CPU kernels share: exactly sized arrays in any storage type, the pool's threads, the error of a
// result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "cpu/common/array.h"
#include "cpu/common/parallel.h"
#include "cpu/threads/cpus.cpp"
#include "cpu/threads/pool.cpp"

namespace cnv2 {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// Memory of exactly this size in a storage type, NaN to begin with.
struct Array {
  DType dtype;
  std::unique_ptr<char[]> bytes;
  int64_t count;

  Array(DType type, int64_t n) : dtype(type), bytes(new char[n * size()]), count(n) {
    std::memset(bytes.get(), 0xff, n * size());
  }
  int64_t size() const { return dtype == DType::kFloat32 ? 4 : 2; }
  template <class F>
  void each(const F& body) {
    switch (dtype) {
      case DType::kFloat32:
        return each_as<float>(body);
      case DType::kBFloat16:
        return each_as<BFloat16>(body);
      case DType::kFloat16:
        return each_as<Half>(body);
    }
  }
  Doubles values() {
    Doubles out(count);
    each([&](int64_t i, auto& v) { out[i] = to_float(v); });
    return out;
  }
  ConstArray view() const { return {bytes.get(), dtype}; }
  void* data() { return bytes.get(); }

 private:
  template <class T, class F>
  void each_as(const F& body) {
    for (int64_t i = 0; i < count; ++i) body(i, reinterpret_cast<T*>(bytes.get())[i]);
  }
};

inline Array random_array(std::mt19937& g, DType dtype, int64_t n, double scale) {
  std::normal_distribution<double> normal(0, scale);
  Array out(dtype, n);
  out.each([&](int64_t, auto& v) { from_float(static_cast<float>(normal(g)), &v); });
  return out;
}

inline Doubles of(const Floats& v) { return {v.begin(), v.end()}; }

// The largest deviation relative to the largest element; NaN if there is one.
inline double difference(const Doubles& got, const Doubles& want) {
  double most = 0, scale = 1e-6;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(got[i] - want[i]);
    most = d <= most ? most : d;
    scale = std::max(scale, std::abs(want[i]));
  }
  return most / scale;
}

// The pool's threads, as many as asked for whatever the machine has, so that a race is one.
inline Parallel threads(int count) {
  assume_cpus(count);
  return {count};
}

// Prints what is off, in units of its limit; whether anything is.
inline bool report(const char* problem, std::initializer_list<std::pair<const char*, double>> errors) {
  bool bad = false;
  for (const auto& [name, error] : errors) {
    if (error <= 1) continue;
    std::printf("%s: %s off by %.2g limits\n", problem, name, error);
    bad = true;
  }
  return bad;
}

inline double rounding(DType dtype) {
  return dtype == DType::kFloat32 ? 2e-6 : dtype == DType::kBFloat16 ? 8e-3 : 1e-3;
}

}  // namespace cnv2
