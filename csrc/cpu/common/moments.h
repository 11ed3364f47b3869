// The statistics of LayerNorm from sums over a row. No framework header.
#pragma once

#include <cmath>
#include <cstdint>

namespace cnv2 {
namespace {

struct RowMoments {
  float mean, rstd;  // rstd = 1 / sqrt(variance + eps)
};

// From a first estimate of the mean, and the sums of x - estimate and of its square over the channels.
//
// A sum of floats is rounded, so the estimate may be some units in the last place off: of equal channels too, whose
// deviation of 0 would become that error times 1 / sqrt(eps). The sum of the deviations corrects it.
inline RowMoments moments_about(float estimate, float deviations, float squares, int64_t channels, float eps) {
  const float count = static_cast<float>(channels), shift = deviations / count;
  const float variance = squares / count - shift * shift;
  return {estimate + shift, 1.f / std::sqrt((variance < 0.f ? 0.f : variance) + eps)};
}

}  // namespace
}  // namespace cnv2
