// Depthwise 7x7 convolution over the rows of a dense or sparse plane, with or without LayerNorm: the arguments of the
// CPU and CUDA kernels. No framework header.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace cnv2 {

constexpr int kDwconvSide = 7;
constexpr int kDwconvPad = 3;
constexpr int kDwconvTaps = kDwconvSide * kDwconvSide;
constexpr int kDwconvSums = kDwconvTaps + 1;  // gradients of a channel's parameters: of the taps, then of the bias

// Where rows sit. Dense: site (n, y, x) is row (n * H + y) * W + x.
struct DwconvPlane {
  int64_t n;
  int h, w;
  const int* map;  // [N, H, W]: the row of each site, -1 where inactive; null: dense
};

struct DwconvForward {
  const void* x;          // [T, C] dtype
  const float* taps;      // [49, C]; tap = kx * 7 + ky
  const void* bias;       // [C] param_dtype, or null
  const void* ln_weight;  // [C] param_dtype, or null: no LayerNorm
  const void* ln_bias;    // [C] param_dtype, null together with ln_weight
  void* y;                // [T, C] dtype: the result
  void* z;                // [T, C] dtype, or null: LayerNorm's input, if it is wanted too
  const void* addend;     // [T, C] dtype, or null: added to the result without LayerNorm (GPUs only)
  DwconvPlane plane;
  int64_t c;
  float eps;
  bool flipped;  // the taps in reverse order: the gradient of the input
  DType dtype;
  DType param_dtype;  // dtype, or kFloat32
};

struct DwconvBackward {
  const void* dy;      // [T, C] dtype
  const void* x;       // [T, C] dtype
  const float* taps;   // [49, C]
  void* dx;            // [T, C] dtype, or null: not wanted
  const void* addend;  // [T, C] dtype, or null: added to dx (GPUs only)
  float* partial;      // [blocks, 50, C]: sums of each block; the taps' gradients, then the bias's; null: not wanted
  DwconvPlane plane;
  int64_t c;
  DType dtype;
};

// The gradient of the input is a convolution of dy.
inline DwconvForward input_gradient(const DwconvBackward& b) {
  DwconvForward p{};
  p.x = b.dy;
  p.taps = b.taps;
  p.y = b.dx;
  p.addend = b.addend;
  p.plane = b.plane;
  p.c = b.c;
  p.flipped = true;
  p.dtype = p.param_dtype = b.dtype;
  return p;
}

}  // namespace cnv2
