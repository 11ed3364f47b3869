// What PyTorch's own modules give for the MLP under autocast to bfloat16: every operator takes and returns bfloat16,
// and computes and sums exactly. For the rule that a kernel's error is compared with.
#pragma once

#include "kernel_problem.h"

namespace cnv2 {

inline float rounded(double value) {
  BFloat16 out;
  from_float(static_cast<float>(value), &out);
  return to_float(out);
}
inline double gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
inline double slope(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * std::acos(-1.0));
}

struct PlainMlpGrn {
  std::vector<int> offsets;  // of the groups
  int64_t c, k, o;           // channels: input, hidden, output
  const Doubles &u, &w1, &b1, &gamma, &beta, &w2, &b2, &dy;
  double eps;
  Doubles y, du, dw1, dw2;

  void run() {
    y.resize(offsets.back() * o), du.resize(offsets.back() * c), dw1.resize(k * c), dw2.resize(o * k);
    for (size_t q = 0; q + 1 < offsets.size(); ++q) group(offsets[q], offsets[q + 1] - offsets[q]);
    for (double& value : dw1) value = rounded(value);
    for (double& value : dw2) value = rounded(value);
  }

 private:
  void group(int64_t first, int64_t rows) {
    Doubles h(rows * k), a(rows * k), v(rows * k), n(k), x(k);
    for (int64_t i = 0; i < rows * k; ++i) {
      h[i] = rounded(b1[i % k] + dot(&u[(first + i / k) * c], 1, &w1[i % k * c], 1, c));
      a[i] = rounded(gelu(h[i]));
      n[i % k] += a[i] * a[i];
    }
    double mean = 0;
    for (double& value : n) value = rounded(std::sqrt(value)), mean += value / k;
    mean = rounded(rounded(mean) + eps);
    for (int64_t j = 0; j < k; ++j) x[j] = rounded(n[j] / mean);
    for (int64_t i = 0; i < rows * k; ++i) {
      const int64_t j = i % k;
      v[i] = rounded(rounded(rounded(gamma[j] * rounded(a[i] * x[j])) + beta[j]) + a[i]);
    }
    for (int64_t i = 0; i < rows * o; ++i) {
      y[first * o + i] = rounded(b2[i % o] + dot(&v[i / o * k], 1, &w2[i % o * k], 1, k));
    }

    Doubles dv(rows * k), dx(k), dn(k);
    double dmean = 0;
    for (int64_t i = 0; i < rows * k; ++i) {
      dv[i] = rounded(dot(&dy[(first + i / k) * o], 1, &w2[i % k], k, o));
      dx[i % k] += rounded(dv[i] * gamma[i % k]) * a[i];
    }
    for (int64_t j = 0; j < k; ++j) dx[j] = rounded(dx[j]), dmean += rounded(-dx[j] * rounded(x[j] / mean));
    for (int64_t j = 0; j < k; ++j) dn[j] = rounded(rounded(dx[j] / mean) + rounded(rounded(dmean) / k));
    Doubles& dh = dv;
    for (int64_t i = 0; i < rows * k; ++i) {
      const int64_t j = i % k;
      const double through_norm = n[j] > 0 ? rounded(a[i] * rounded(dn[j] / n[j])) : 0;
      const double da = rounded(rounded(dv[i] + rounded(rounded(dv[i] * gamma[j]) * x[j])) + through_norm);
      for (int64_t l = 0; l < o; ++l) dw2[l * k + j] += dy[(first + i / k) * o + l] * v[i];
      dh[i] = rounded(da * slope(h[i]));
      for (int64_t l = 0; l < c; ++l) dw1[j * c + l] += dh[i] * u[(first + i / k) * c + l];
    }
    for (int64_t i = 0; i < rows * c; ++i) {
      du[first * c + i] = rounded(dot(&dh[i / c * k], 1, &w1[i % c], c, k));
    }
  }

  static double dot(const double* a, int64_t a_step, const double* b, int64_t b_step, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += a[i * a_step] * b[i * b_step];
    return sum;
  }
};

}  // namespace cnv2
