// What GRN makes of its sums over the rows of a group: the factors of the forward and of the backward, which grn and
// mlp_grn share. With n = ||x|| per channel and m = mean n + eps:
//   s = 1 + gamma n / m, and the forward is x s + beta;
// with the sums p = sum dy x and q = sum dy:
//   dn = gamma p / m - sum_c(gamma p n) / (m^2 C), and dx = dy s + x dn / n (0 where n is);
//   dgamma = sum_groups p n / m, dbeta = sum_groups q.
#pragma once

#include <cmath>
#include <cstdint>

namespace cnv2 {
namespace {

// The parameters' gradients, summed over the groups in double precision: a group's share may be large and cancel
// another's.
class GrnGradients {
 public:
  // On memory of 4 * channels floats, aligned for doubles.
  GrnGradients(float* memory, int64_t channels)
      : gamma(reinterpret_cast<double*>(memory)), beta(gamma + channels), channels_(channels) {
    for (int64_t c = 0; c < 2 * channels; ++c) gamma[c] = 0;
  }
  void round(float* __restrict__ dgamma,         // [channels]
             float* __restrict__ dbeta) const {  // [channels]
    for (int64_t c = 0; c < channels_; ++c) {
      dgamma[c] = static_cast<float>(gamma[c]);
      dbeta[c] = static_cast<float>(beta[c]);
    }
  }
  double* const gamma;
  double* const beta;

 private:
  int64_t channels_;
};

template <class V>
struct GrnFactors {
  // In the place of the sums of squares their roots n, and the scale s. `width`: `channels` in whole vectors; gamma and
  // the sums are zero beyond the channels.
  static void forward(float* __restrict__ sums,         // [width]: in, sum x^2; out, n
                      const float* __restrict__ gamma,  // [width]
                      int64_t width, int64_t channels, float eps,
                      float* __restrict__ scale) {  // [width]
    double total = 0;
    for (int64_t c = 0; c < width; ++c) sums[c] = std::sqrt(sums[c]);
    for (int64_t c = 0; c < channels; ++c) total += sums[c];
    const float mean = static_cast<float>(total / static_cast<double>(channels));
    const V inverse = V::set(1.f / (mean + eps));
    for (int64_t c = 0; c < width; c += V::width) {
      V::fma(V::load(gamma + c), V::mul(V::load(sums + c), inverse), V::set(1.f)).store(scale + c);
    }
  }

  // In the place of one group's sums the factors dn / n and s; adds to the parameters' gradients.
  static void backward(const float* __restrict__ norm,   // [channels]: n
                       const float* __restrict__ gamma,  // [channels]
                       int64_t channels, float eps,
                       float* __restrict__ product,  // [channels]: in, p; out, dn / n
                       float* __restrict__ sum,      // [channels]: in, q; out, s
                       const GrnGradients& gradients) {
    double* __restrict__ dgamma = gradients.gamma, * __restrict__ dbeta = gradients.beta;
    double total = 0, shared = 0;
    for (int64_t c = 0; c < channels; ++c) {
      total += norm[c];
      shared += static_cast<double>(gamma[c] * product[c]) * norm[c];
    }
    const double count = static_cast<double>(channels);
    const float m = static_cast<float>(total / count) + eps, inverse = 1.f / m;
    const float back = static_cast<float>(shared / (static_cast<double>(m) * m * count));
    for (int64_t c = 0; c < channels; ++c) {
      const float relative = norm[c] * inverse, p = product[c];
      dgamma[c] += p * relative;
      dbeta[c] += sum[c];
      product[c] = norm[c] > 0.f ? (gamma[c] * p * inverse - back) / norm[c] : 0.f;
      sum[c] = gamma[c] * relative + 1.f;
    }
  }
};

}  // namespace
}  // namespace cnv2
