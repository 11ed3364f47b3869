// dwconv_layer_norm: y = LayerNorm_C(z), z = depthwise 7x7 cross-correlation of x (zero padding 3) + bias.
// The arguments of the CPU kernels. No framework header.
#pragma once

#include <cstdint>

#include "cnv2/dtype.h"

namespace cnv2 {

constexpr int kTaps1d = 7;
constexpr int kTaps = kTaps1d * kTaps1d;
constexpr int kPad = 3;

struct DwconvLayerNormParams {
  const void* x;          // [N, H, W, C] dtype
  const void* kernel;     // [49, C] param_dtype; tap = kx * 7 + ky
  const void* bias;       // [C] param_dtype, or null
  const void* ln_weight;  // [C] param_dtype
  const void* ln_bias;    // [C] param_dtype
  void* y;                // [N, H, W, C] dtype
  void* z;                // [N, H, W, C] dtype, or null: not wanted
  float* mean;            // [N * H * W], or null: not wanted; given only with z
  float* rstd;            // [N * H * W], or null: not wanted; given only with z
  int64_t n, h, w, c;
  float eps;
  DType dtype;
  DType param_dtype;  // dtype, or kFloat32
};

}  // namespace cnv2
