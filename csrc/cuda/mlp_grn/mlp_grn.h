// Launches the CUDA kernels around mlp_grn's matrix products. No framework header. G is the number of groups, K that of
// hidden channels.
#pragma once

#include "cuda/grn/grn.h"

namespace cnv2 {

struct MlpActivate {
  const void* h;   // [T, K] dtype
  const void* b1;  // [K] b1_dtype
  void* a;         // [T, K] dtype: GELU(h + b1)
  DType b1_dtype;
};

struct MlpScaleWeight {
  const void* w;       // [C', K] dtype
  const float* scale;  // [G, K]
  void* out;           // [G, C', K] dtype: w scale
  int64_t groups, c_out, k;
  DType dtype;
};

struct MlpFinish {
  const void* y;                       // [T, C'] dtype
  const void* bias;                    // [C'] bias_dtype
  const float* row_scale;              // [R], each for T / R adjacent rows, or null
  const void* residual;                // [T, C'] out_dtype, or null
  void* out;                           // [T, C'] out_dtype: residual + row_scale (y + bias)
  int64_t rows, columns, runs;         // runs: R, 1 without row_scale
  DType dtype, bias_dtype, out_dtype;  // out_dtype: dtype, or kFloat32
  bool aligned;
};

struct MlpBackward {
  const void* dg;    // [T, K] dtype: gradient of GRN's result
  const void* h;     // [T, K] dtype
  const void* b1;    // [K] b1_dtype
  const void* beta;  // [K] beta_dtype
  void* dh;          // [T, K] dtype: gradient of h
  void* g;           // [T, K] dtype: GRN's result
  float* db1;        // [K]
  DType b1_dtype, beta_dtype;
};

// Each enqueues work on `stream` of the current device and returns the first error of a launch.
// p.a, then scale.norm and scale.scale of a as it is stored.
cudaError_t launch_mlp_activate(const GroupShape& shape, const MlpActivate& p, const GrnScale& scale,
                                cudaStream_t stream);
cudaError_t launch_mlp_scale_weight(const MlpScaleWeight& p, cudaStream_t stream);
cudaError_t launch_mlp_finish(const MlpFinish& p, cudaStream_t stream);
// p's results and grad's, with a computed again from h. The sums of dh pass through the first half of grad.partial.
cudaError_t launch_mlp_backward(const GroupShape& shape, const MlpBackward& p, const GrnGrad& grad,
                                cudaStream_t stream);

}  // namespace cnv2
