// dwconv_layer_norm, forward, one block per strip of kStrip output columns of one row, with all channels.
// Threads run across channels, so that every access to x, y and the kernel is coalesced. A thread keeps the kStrip sums
// of a channel in registers and slides over the kStrip + 6 inputs of each of the seven rows: every input is loaded
// once. LayerNorm: the float32 results of the strip wait in shared memory (kStaged); two passes for the statistics. A C
// too wide for shared memory takes the other variant, which computes the convolution again in each pass. No framework
// header: the body runs wherever threadIdx, __syncthreads and __shfl_xor_sync exist.
#pragma once

#include "cnv2/cuda_dtype.cuh"
#include "cnv2/cuda_launch.cuh"
#include "cnv2/cuda_reduce.cuh"
#include "cnv2/dwconv_layer_norm.h"

namespace cnv2 {

constexpr int kDwconvLayerNormThreads = 256;

// Floats of dynamic shared memory: the reduction's partial sums, then the staged strip.
template <int kStrip, bool kStaged>
constexpr int64_t dwconv_layer_norm_shared_floats(int64_t c) {
  return kStrip * (kDwconvLayerNormThreads / kWarp) + (kStaged ? kStrip * c : 0);
}

// The kStrip convolution sums of channel `c`: `image` is x of one sample; y and x0 the strip's row and first column.
template <class T, class P, int kStrip>
__device__ inline void convolve_channel(const DwconvLayerNormParams& p, const T* image, int64_t y, int64_t x0,
                                        int64_t c, float (&acc)[kStrip]) {
#pragma unroll
  for (int j = 0; j < kStrip; ++j) acc[j] = 0.0f;
  const P* kernel = static_cast<const P*>(p.kernel) + c;
  for (int ky = 0; ky < kTaps1d; ++ky) {
    const int64_t row = y + ky - kPad;
    if (row < 0 || row >= p.h) continue;
    const T* in = image + row * p.w * p.c + c;
    float tap[kTaps1d];
#pragma unroll
    for (int kx = 0; kx < kTaps1d; ++kx) tap[kx] = load_float(kernel + (kx * kTaps1d + ky) * p.c);
#pragma unroll
    for (int i = 0; i < kStrip + kTaps1d - 1; ++i) {
      const int64_t column = x0 + i - kPad;
      const float value = column < 0 || column >= p.w ? 0.0f : load_float(in + column * p.c);
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        if (i - j >= 0 && i - j < kTaps1d) acc[j] = fmaf(value, tap[i - j], acc[j]);
      }
    }
  }
  // Last: a large bias does not cost the sums their low bits.
  const float bias = p.bias == nullptr ? 0.0f : load_float(static_cast<const P*>(p.bias) + c);
#pragma unroll
  for (int j = 0; j < kStrip; ++j) acc[j] += bias;
}

// T: type of x, y and z; P: of the parameters. Grid: any number of blocks, which take strips in turn.
template <class T, class P, int kStrip, bool kStaged>
__global__ void __launch_bounds__(kDwconvLayerNormThreads)
    dwconv_layer_norm_kernel(const DwconvLayerNormParams p, const int64_t strips) {
  CNV2_SHARED(shared);
  float* const partial = reinterpret_cast<float*>(shared);
  float* const stage = partial + kStrip * (kDwconvLayerNormThreads / kWarp);  // [kStrip, C]
  const int64_t strips_x = (p.w + kStrip - 1) / kStrip;
  const float inverse_c = 1.0f / static_cast<float>(p.c);

  for (int64_t strip = blockIdx.x; strip < strips; strip += gridDim.x) {
    const int64_t x0 = strip % strips_x * kStrip;
    const int64_t y = strip / strips_x % p.h;
    const int64_t n = strip / strips_x / p.h;
    const T* image = static_cast<const T*>(p.x) + n * p.h * p.w * p.c;
    const int64_t first = (n * p.h + y) * p.w + x0;  // the strip's first pixel in [N * H * W]
    const int count = static_cast<int>(p.w - x0 < kStrip ? p.w - x0 : kStrip);
    // Each thread reads back only what it staged itself: no barrier is needed around `stage`.
    const auto staged = [&](int64_t c, float (&acc)[kStrip]) {
      if constexpr (kStaged) {
#pragma unroll
        for (int j = 0; j < kStrip; ++j) acc[j] = stage[j * p.c + c];
      } else {
        convolve_channel<T, P, kStrip>(p, image, y, x0, c, acc);
      }
    };

    float mean[kStrip] = {};
    for (int64_t c = threadIdx.x; c < p.c; c += blockDim.x) {
      float acc[kStrip];
      convolve_channel<T, P, kStrip>(p, image, y, x0, c, acc);
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        if constexpr (kStaged) stage[j * p.c + c] = acc[j];
        mean[j] += acc[j];
      }
    }
    block_sum<kStrip>(mean, partial);
#pragma unroll
    for (int j = 0; j < kStrip; ++j) mean[j] *= inverse_c;

    float rstd[kStrip] = {};
    for (int64_t c = threadIdx.x; c < p.c; c += blockDim.x) {
      float acc[kStrip];
      staged(c, acc);
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        const float d = acc[j] - mean[j];
        rstd[j] = fmaf(d, d, rstd[j]);
      }
    }
    block_sum<kStrip>(rstd, partial);
#pragma unroll
    for (int j = 0; j < kStrip; ++j) rstd[j] = 1.0f / sqrtf(rstd[j] * inverse_c + p.eps);

    for (int64_t c = threadIdx.x; c < p.c; c += blockDim.x) {
      float acc[kStrip];
      staged(c, acc);
      const float weight = load_float(static_cast<const P*>(p.ln_weight) + c);
      const float bias = load_float(static_cast<const P*>(p.ln_bias) + c);
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        if (j >= count) continue;
        const int64_t at = (first + j) * p.c + c;
        store_float(static_cast<T*>(p.y) + at, fmaf((acc[j] - mean[j]) * rstd[j], weight, bias));
        if (p.z != nullptr) store_float(static_cast<T*>(p.z) + at, acc[j]);
      }
    }
    if (p.z != nullptr && threadIdx.x == 0) {
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        if (j >= count) continue;
        p.mean[first + j] = mean[j];
        p.rstd[first + j] = rstd[j];
      }
    }
  }
}

}  // namespace cnv2
