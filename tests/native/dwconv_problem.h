// Problems for dwconv_layer_norm kernels, a reference in double precision, and the comparison. Every buffer touches an
// inaccessible page, at its end in one run and at its beginning in another: a step outside ends the program.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "cnv2/dwconv_layer_norm.h"

namespace cnv2 {

inline bool guard_the_end = true;

// `count` values of T between inaccessible pages, beside one of them.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t inside = (bytes + page - 1) / page * page;
    length_ = inside + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, inside, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = reinterpret_cast<T*>(base_ + page + (guard_the_end ? inside - bytes : 0));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, length_); }

  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  char* base_;
  size_t length_;
  T* data_;
};

template <class T>
struct Values {
  Guarded<T> stored;
  std::vector<double> exact;  // what is stored, widened

  Values(int64_t count, double scale, std::mt19937& random) : stored(count), exact(count) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      from_float(static_cast<float>(scale) * normal(random), &stored[i]);
      exact[i] = to_float(stored[i]);
    }
  }
};

// T: activations; P: parameters.
template <class T, class P>
class Problem {
 public:
  Problem(int64_t n, int64_t h, int64_t w, int64_t c, bool with_bias, bool train, DType dtype, DType param_dtype)
      : random_(static_cast<unsigned>(n + 7 * h + 31 * w + 131 * c)),
        x_(n * h * w * c, 1.0, random_),
        kernel_(kTaps * c, 0.14, random_),
        bias_(c, 1.0, random_),
        ln_weight_(c, 1.0, random_),
        ln_bias_(c, 1.0, random_),
        y_(n * h * w * c),
        z_(n * h * w * c),
        mean_(n * h * w),
        rstd_(n * h * w) {
    params_ = {x_.stored.get(),
               kernel_.stored.get(),
               with_bias ? bias_.stored.get() : nullptr,
               ln_weight_.stored.get(),
               ln_bias_.stored.get(),
               nullptr,
               nullptr,
               nullptr,
               nullptr,
               n,
               h,
               w,
               c,
               1e-6f,
               dtype,
               param_dtype};
    const int64_t pixels = n * h * w;
    poison(y_, pixels * c);
    params_.y = y_.get();
    if (train) {
      poison(z_, pixels * c);
      poison(mean_, pixels);
      poison(rstd_, pixels);
      params_.z = z_.get();
      params_.mean = mean_.get();
      params_.rstd = rstd_.get();
    }
  }

  const DwconvLayerNormParams& params() const { return params_; }

  std::vector<char> output_bytes() const {
    const auto* bytes = reinterpret_cast<const char*>(y_.get());
    return std::vector<char>(bytes, bytes + params_.n * params_.h * params_.w * params_.c * sizeof(T));
  }

  // Largest error of any output beyond its own rounding, in units of float32's epsilon relative to the values' size.
  double error() const {
    const auto& p = params_;
    double worst = 0.0;
    std::vector<double> z(p.c);
    for (int64_t pixel = 0; pixel < p.n * p.h * p.w; ++pixel) {
      const int64_t x0 = pixel % p.w, y0 = pixel / p.w % p.h, n = pixel / p.w / p.h;
      double mean = 0.0, variance = 0.0;
      for (int64_t c = 0; c < p.c; ++c) {
        z[c] = p.bias == nullptr ? 0.0 : bias_.exact[c];
        for (int64_t ky = 0; ky < kTaps1d; ++ky) {
          for (int64_t kx = 0; kx < kTaps1d; ++kx) {
            const int64_t y = y0 + ky - kPad, x = x0 + kx - kPad;
            if (y < 0 || y >= p.h || x < 0 || x >= p.w) continue;
            z[c] += x_.exact[((n * p.h + y) * p.w + x) * p.c + c] * kernel_.exact[(kx * kTaps1d + ky) * p.c + c];
          }
        }
        mean += z[c] / static_cast<double>(p.c);
      }
      for (int64_t c = 0; c < p.c; ++c) variance += (z[c] - mean) * (z[c] - mean) / static_cast<double>(p.c);
      const double rstd = 1.0 / std::sqrt(variance + static_cast<double>(p.eps));
      // The subtraction of the mean loses what z and mean share; a small variance magnifies it.
      const double magnified = 1.0 + (std::abs(mean) + std::sqrt(variance)) * rstd;
      for (int64_t c = 0; c < p.c; ++c) {
        const double y = (z[c] - mean) * rstd * ln_weight_.exact[c] + ln_bias_.exact[c];
        const double size = magnified * (1.0 + std::abs(ln_weight_.exact[c])) + std::abs(y);
        worst = larger(worst, beyond_rounding(y_[pixel * p.c + c], y) / size);
        if (p.z != nullptr) worst = larger(worst, beyond_rounding(z_[pixel * p.c + c], z[c]) / (4.0 + std::abs(z[c])));
      }
      if (p.z != nullptr) {
        worst = larger(worst, std::abs(mean_[pixel] - mean) / (4.0 + std::abs(mean)));
        // d(rstd) = rstd^3 / 2 * d(variance), and variance is known to about eps * (mean^2 + variance).
        const double rstd_size = rstd + rstd * rstd * rstd * (mean * mean + variance + 1.0);
        worst = larger(worst, std::abs(rstd_[pixel] - rstd) / rstd_size);
      }
    }
    return worst / std::numeric_limits<float>::epsilon();
  }

 private:
  template <class U>
  static void poison(const Guarded<U>& buffer, int64_t count) {
    for (int64_t i = 0; i < count; ++i) from_float(std::numeric_limits<float>::quiet_NaN(), &buffer[i]);
  }

  // NaN counts as larger than anything, so that nothing unwritten passes.
  static double larger(double a, double b) {
    return !(b <= a) ? (std::isnan(b) ? std::numeric_limits<double>::infinity() : b) : a;
  }

  // |got - exact|, less the half unit in the last place that storing as T costs.
  static double beyond_rounding(T got, double exact) {
    const double unit = sizeof(T) == 4 ? 0.0 : std::is_same<T, Half>::value ? 0x1p-11 : 0x1p-8;
    const double value = to_float(got);
    const double excess = std::abs(value - exact) - unit * std::abs(value) - (unit > 0.0 ? 0x1p-25 : 0.0);
    return std::isnan(value) ? value : excess > 0.0 ? excess : 0.0;
  }

  std::mt19937 random_;
  Values<T> x_;
  Values<P> kernel_, bias_, ln_weight_, ln_bias_;
  Guarded<T> y_, z_;
  Guarded<float> mean_, rstd_;
  DwconvLayerNormParams params_{};
};

struct Shape {
  int64_t n, h, w, c;
};

// Runs `check(problem)` for every shape, with and without bias and the outputs of training, in every pair of dtypes.
// With both_ends every buffer is guarded at its end and, in a second run, at its beginning; else shapes take turns.
// Each check returns an error in units of float32's epsilon; the program's exit code says whether all are small.
template <class Check>
int check_all(const std::vector<Shape>& shapes, bool both_ends, const Check& check) {
  int count = 0, failures = 0;
  double worst = 0.0;
  const auto one = [&](auto&& problem, const Shape& s, const char* types) {
    const double error = check(problem);
    ++count;
    worst = error > worst ? error : worst;
    if (!(error <= 16.0)) {
      ++failures;
      std::printf("FAILED (%ld, %ld, %ld, %ld) %s: error %.3g epsilon\n", long(s.n), long(s.h), long(s.w), long(s.c),
                  types, error);
    }
  };
  for (size_t i = 0; i < (both_ends ? 2 : 1) * shapes.size(); ++i) {
    const Shape& s = shapes[i % shapes.size()];
    guard_the_end = (i + i / shapes.size()) % 2 == 0;
    const bool train = i % 2 == 0, bias = i % 3 != 0;
    const auto f = DType::kFloat32, b = DType::kBFloat16, h = DType::kFloat16;
    one(Problem<float, float>(s.n, s.h, s.w, s.c, bias, train, f, f), s, "float32");
    one(Problem<BFloat16, BFloat16>(s.n, s.h, s.w, s.c, bias, !train, b, b), s, "bfloat16");
    one(Problem<BFloat16, float>(s.n, s.h, s.w, s.c, bias, train, b, f), s, "bfloat16, float32 parameters");
    one(Problem<Half, Half>(s.n, s.h, s.w, s.c, bias, train, h, h), s, "float16");
    one(Problem<Half, float>(s.n, s.h, s.w, s.c, bias, !train, h, f), s, "float16, float32 parameters");
  }
  std::printf("%d problems, %d failed, largest error %.2f epsilon\n", count, failures, worst);
  return failures == 0 ? 0 : 1;
}

}  // namespace cnv2
