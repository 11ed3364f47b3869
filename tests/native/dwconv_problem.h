// Problems for the depthwise convolution's kernels, a reference in double precision, and the comparison. Every buffer
// touches an inaccessible page, at its end in one run and at its beginning in another: a step outside ends the program.
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

#include "cpu/dwconv/dwconv.h"

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

struct Shape {
  int64_t n, h, w, c;
};

// Which sites of the plane have a row.
enum class Sites { kDense, kPatches, kScattered, kOne, kNone };

inline std::vector<int> map_of(const Shape& s, Sites sites, std::mt19937& random) {
  std::vector<int> map(s.n * s.h * s.w, -1);
  std::bernoulli_distribution half;
  const int64_t edge = int64_t{1} << random() % 4;
  int rows = 0;
  for (int64_t n = 0; n < s.n; ++n) {
    std::vector<char> patches((s.h / edge + 1) * (s.w / edge + 1));
    for (char& patch : patches) patch = half(random);
    for (int64_t y = 0; y < s.h; ++y) {
      for (int64_t x = 0; x < s.w; ++x) {
        int& row = map[(n * s.h + y) * s.w + x];
        const bool active = sites == Sites::kDense       ? true
                            : sites == Sites::kPatches   ? patches[y / edge * (s.w / edge + 1) + x / edge] != 0
                            : sites == Sites::kScattered ? half(random)
                            : sites == Sites::kOne       ? rows == 0 && y == s.h / 2 && x == s.w / 2
                                                         : false;
        if (active) row = rows++;
      }
    }
  }
  return map;
}

// T: activations; P: parameters.
template <class T, class P>
class Problem {
 public:
  Problem(const Shape& s, Sites sites, bool with_bias, bool train, DType dtype, DType param_dtype)
      : shape_(s),
        random_(static_cast<unsigned>(s.n + 7 * s.h + 31 * s.w + 131 * s.c)),
        map_values_(map_of(s, sites, random_)),
        map_(map_values_.size()),
        rows_(0),
        x_(count_rows() * s.c, 1.0, random_),
        dy_(rows_ * s.c, 1.0, random_),
        taps_(kDwconvTaps * s.c, 0.14, random_),
        bias_(s.c, 1.0, random_),
        ln_weight_(s.c, 1.0, random_),
        ln_bias_(s.c, 1.0, random_),
        y_(rows_ * s.c),
        z_(rows_ * s.c),
        dx_(rows_ * s.c) {
    for (size_t i = 0; i < map_values_.size(); ++i) map_[i] = map_values_[i];
    forward_.x = x_.stored.get();
    forward_.taps = taps_.stored.get();
    forward_.bias = with_bias ? bias_.stored.get() : nullptr;
    forward_.ln_weight = ln_weight_.stored.get();
    forward_.ln_bias = ln_bias_.stored.get();
    forward_.y = y_.get();
    forward_.z = train ? z_.get() : nullptr;
    forward_.plane = {s.n, static_cast<int>(s.h), static_cast<int>(s.w), sites == Sites::kDense ? nullptr : map_.get()};
    forward_.c = s.c;
    forward_.eps = 1e-6f;
    forward_.dtype = dtype;
    forward_.param_dtype = param_dtype;
    for (const auto* buffer : {&y_, &z_, &dx_}) poison(*buffer, rows_ * s.c);
  }

  // y and z: with LayerNorm.
  const DwconvForward& forward() const { return forward_; }

  // dx: the flipped convolution of dy.
  DwconvForward input_gradient() const {
    DwconvForward p{};
    p.x = dy_.stored.get();
    p.taps = forward_.taps;
    p.y = dx_.get();
    p.plane = forward_.plane;
    p.c = forward_.c;
    p.flipped = true;
    p.dtype = p.param_dtype = forward_.dtype;
    return p;
  }

  DwconvBackward backward(float* partial) const {
    DwconvBackward p{};
    p.dy = dy_.stored.get();
    p.x = x_.stored.get();
    p.taps = forward_.taps;
    p.partial = partial;
    p.plane = forward_.plane;
    p.c = forward_.c;
    p.dtype = forward_.dtype;
    return p;
  }

  std::vector<char> output_bytes() const {
    std::vector<char> bytes;
    for (const auto* buffer : {&y_, &dx_}) {
      const auto* begin = reinterpret_cast<const char*>(buffer->get());
      bytes.insert(bytes.end(), begin, begin + rows_ * shape_.c * sizeof(T));
    }
    return bytes;
  }

  // Largest error of any output beyond its own rounding, in units of float32's epsilon relative to the values' size.
  // `sums` [50, C]: the parameters' gradients.
  double error(const float* sums) const {
    double worst = 0.0;
    const int64_t channels = shape_.c;
    std::vector<double> z(channels), dx(channels);
    std::vector<double> gradients(kDwconvSums * channels), sizes(kDwconvSums * channels, 1.0);
    for (int64_t site = 0; site < shape_.n * shape_.h * shape_.w; ++site) {
      const int64_t row = map_values_[site];
      if (row < 0) continue;
      for (int64_t c = 0; c < channels; ++c) {
        z[c] = forward_.bias == nullptr ? 0.0 : bias_.exact[c];
        dx[c] = 0.0;
        gradients[kDwconvTaps * channels + c] += dy_.exact[row * channels + c];
        sizes[kDwconvTaps * channels + c] += std::abs(dy_.exact[row * channels + c]);
      }
      each_neighbour(site, [&](int64_t tap, int64_t other) {
        for (int64_t c = 0; c < channels; ++c) {
          z[c] += x_.exact[other * channels + c] * taps_.exact[tap * channels + c];
          dx[c] += dy_.exact[other * channels + c] * taps_.exact[(kDwconvTaps - 1 - tap) * channels + c];
          const double product = x_.exact[other * channels + c] * dy_.exact[row * channels + c];
          gradients[tap * channels + c] += product;
          sizes[tap * channels + c] += std::abs(product);
        }
      });
      worst = larger(worst, error_of_row(row, z));
      for (int64_t c = 0; c < channels; ++c) {
        worst = larger(worst, beyond_rounding(dx_[row * channels + c], dx[c]) / (4.0 + std::abs(dx[c])));
      }
    }
    for (int64_t i = 0; i < kDwconvSums * channels; ++i)
      worst = larger(worst, std::abs(sums[i] - gradients[i]) / sizes[i]);
    return worst / std::numeric_limits<float>::epsilon();
  }

 private:
  int64_t count_rows() {
    for (const int row : map_values_) rows_ += row >= 0;
    return rows_;
  }

  // Calls body(tap, row) for every active site in the window of `site`.
  template <class F>
  void each_neighbour(int64_t site, const F& body) const {
    const int64_t x0 = site % shape_.w, y0 = site / shape_.w % shape_.h, n = site / shape_.w / shape_.h;
    for (int64_t ky = 0; ky < kDwconvSide; ++ky) {
      for (int64_t kx = 0; kx < kDwconvSide; ++kx) {
        const int64_t y = y0 + ky - kDwconvPad, x = x0 + kx - kDwconvPad;
        if (y < 0 || y >= shape_.h || x < 0 || x >= shape_.w) continue;
        const int64_t row = map_values_[(n * shape_.h + y) * shape_.w + x];
        if (row >= 0) body(kx * kDwconvSide + ky, row);
      }
    }
  }

  double error_of_row(int64_t row, const std::vector<double>& z) const {
    const int64_t channels = shape_.c;
    double worst = 0.0, mean = 0.0, variance = 0.0;
    for (const double value : z) mean += value / static_cast<double>(channels);
    for (const double value : z) variance += (value - mean) * (value - mean) / static_cast<double>(channels);
    const double rstd = 1.0 / std::sqrt(variance + static_cast<double>(forward_.eps));
    // The subtraction of the mean loses what z and mean share; a small variance magnifies it.
    const double magnified = 1.0 + (std::abs(mean) + std::sqrt(variance)) * rstd;
    for (int64_t c = 0; c < channels; ++c) {
      const double y = (z[c] - mean) * rstd * ln_weight_.exact[c] + ln_bias_.exact[c];
      const double size = magnified * (1.0 + std::abs(ln_weight_.exact[c])) + std::abs(y);
      worst = larger(worst, beyond_rounding(y_[row * channels + c], y) / size);
      if (forward_.z == nullptr) continue;
      worst = larger(worst, beyond_rounding(z_[row * channels + c], z[c]) / (4.0 + std::abs(z[c])));
    }
    return worst;
  }

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

  Shape shape_;
  std::mt19937 random_;
  std::vector<int> map_values_;
  Guarded<int> map_;
  int64_t rows_;
  Values<T> x_, dy_;
  Values<float> taps_;
  Values<P> bias_, ln_weight_, ln_bias_;
  Guarded<T> y_, z_, dx_;
  DwconvForward forward_{};
};

// Runs `check(problem)` for every shape, with and without bias and the outputs of training, in every pair of dtypes, on
// dense and sparse planes. Every buffer is guarded at its end and, in a second run, at its beginning.
// Each check returns an error in units of float32's epsilon; the program's exit code says whether all are small.
template <class Check>
int check_all(const std::vector<Shape>& shapes, const Check& check) {
  int count = 0, failures = 0;
  double worst = 0.0;
  const auto one = [&](auto&& problem, const Shape& s, Sites sites, const char* types) {
    const double error = check(problem);
    ++count;
    worst = error > worst ? error : worst;
    if (!(error <= 16.0)) {
      ++failures;
      std::printf("FAILED (%ld, %ld, %ld, %ld) sites %d %s: error %.3g epsilon\n", long(s.n), long(s.h), long(s.w),
                  long(s.c), int(sites), types, error);
    }
  };
  for (size_t i = 0; i < 4 * shapes.size(); ++i) {
    const Shape& s = shapes[i % shapes.size()];
    const size_t round = i / shapes.size();
    guard_the_end = (i + round) % 2 == 0;
    const bool train = i % 2 == 0, bias = i % 3 != 0;
    constexpr Sites kSparse[] = {Sites::kPatches, Sites::kScattered, Sites::kPatches, Sites::kOne, Sites::kNone};
    const Sites sites = round < 2 ? Sites::kDense : kSparse[i % 5];
    const auto f = DType::kFloat32, b = DType::kBFloat16, h = DType::kFloat16;
    one(Problem<float, float>(s, sites, bias, train, f, f), s, sites, "float32");
    one(Problem<BFloat16, BFloat16>(s, sites, bias, !train, b, b), s, sites, "bfloat16");
    one(Problem<BFloat16, float>(s, sites, bias, train, b, f), s, sites, "bfloat16, float32 parameters");
    one(Problem<Half, Half>(s, sites, bias, train, h, h), s, sites, "float16");
    one(Problem<Half, float>(s, sites, bias, !train, h, f), s, sites, "float16, float32 parameters");
  }
  std::printf("%d problems, %d failed, largest error %.2f epsilon\n", count, failures, worst);
  return failures == 0 ? 0 : 1;
}

}  // namespace cnv2
