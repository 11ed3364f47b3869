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

struct MlpOutputGradient {
  const void* dout;        // [T, C'] out_dtype
  const float* row_scale;  // [R], each for T / R adjacent rows, or null
  void* dy;                // [T, C'] dtype: row_scale dout, or null: it is dout, and not wanted
  float* partial;          // [splits, R, C']: the blocks' sums of its columns, or null: not wanted
  DType out_dtype;         // the shape's dtype, or kFloat32
};

struct MlpBackward {
  const void* dg;    // [T, K] dtype: gradient of GRN's result
  const void* h;     // [T, K] dtype
  const void* b1;    // [K] b1_dtype
  const void* beta;  // [K] beta_dtype
  void* dh;          // [T, K] dtype: gradient of h
  void* g;           // [T, K] dtype: GRN's result; both may take the place of what they are made of
  DType b1_dtype, beta_dtype;
};

// Each enqueues work on `stream` of the current device and returns the first error of a launch.
// p.a, which may take h's place, then scale.norm and scale.scale of a as it is stored, and `shift`.
cudaError_t launch_mlp_activate(const GroupShape& shape, const MlpActivate& p, const GrnScale& scale,
                                const GrnShift& shift, cudaStream_t stream);
cudaError_t launch_mlp_scale_weight(const MlpScaleWeight& p, cudaStream_t stream);
cudaError_t launch_mlp_finish(const MlpFinish& p, cudaStream_t stream);
// The groups of `shape` are the runs of rows that share a row_scale. The first sets its `splits`.
cudaError_t set_output_gradient_splits(DType out_dtype, GroupShape* shape);
cudaError_t launch_mlp_output_gradient(const GroupShape& shape, const MlpOutputGradient& p, cudaStream_t stream);
// p's results with a computed again from h, and what add_mlp_sums adds up.
cudaError_t launch_mlp_backward(const GroupShape& shape, const MlpBackward& p, const GrnGrad& grad,
                                cudaStream_t stream);

// The sums that give db1, dgamma and dbeta, [K] each. Those of dh are in the first half of grad.partial.
void add_mlp_sums(const GroupShape& shape, const GrnGrad& grad, void* db1, DType db1_dtype, void* dgamma,
                  DType dgamma_dtype, void* dbeta, DType dbeta_dtype, SumJobs* jobs);

}  // namespace cnv2
