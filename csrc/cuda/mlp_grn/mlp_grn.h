// Launches the CUDA kernels around mlp_grn's matrix products. No framework header.
#pragma once

#include "cuda/grn/grn.h"

namespace cnv2 {

// a = GELU(h + b1), and partial [splits, groups, columns] = sums of a^2, of a as it is stored.
cudaError_t launch_mlp_activate(const GrnShape& shape, const void* h, const void* b1, DType b1_dtype, void* a,
                                float* partial, cudaStream_t stream);

// partial [2, splits, groups, columns] = sums of dg a, and of dg, with a computed again from h.
cudaError_t launch_mlp_products(const GrnShape& shape, const void* dg, const void* h, const void* b1, DType b1_dtype,
                                float* partial, cudaStream_t stream);

struct MlpBackward {
  const void* dg;       // [T, columns] dtype: gradient of GRN's result
  const void* h;        // [T, columns] dtype
  const void* b1;       // [columns] b1_dtype
  const void* beta;     // [columns] beta_dtype
  const float* scale;   // [groups, columns]
  const float* factor;  // [groups, columns]
  void* dh;             // [T, columns] dtype: gradient of h
  void* g;              // [T, columns] dtype: GRN's result
  float* partial;       // [splits, groups, columns]: sums of dh
  DType b1_dtype, beta_dtype;
};
cudaError_t launch_mlp_backward(const GrnShape& shape, const MlpBackward& params, cudaStream_t stream);

// out [groups, c_out, columns] = w [c_out, columns] scale [groups, columns].
cudaError_t launch_mlp_scale_weight(int64_t groups, int64_t c_out, int64_t columns, DType dtype, const void* w,
                                    const float* scale, void* out, cudaStream_t stream);

struct MlpFinish {
  const void* y;                       // [T, columns] dtype
  const void* bias;                    // [columns] bias_dtype
  const float* row_scale;              // [R], each for T / R adjacent rows, or null
  const void* residual;                // [T, columns] out_dtype, or null
  void* out;                           // [T, columns] out_dtype
  int64_t rows, columns, runs;         // runs: R, 1 without row_scale
  DType dtype, bias_dtype, out_dtype;  // out_dtype: dtype, or kFloat32
  bool aligned;
};
// out = residual + row_scale (y + bias)
cudaError_t launch_mlp_finish(const MlpFinish& params, cudaStream_t stream);

}  // namespace cnv2
