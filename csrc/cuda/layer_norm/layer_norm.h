// Launches the CUDA kernels of LayerNorm over rows. No framework header.
#pragma once

#include "common/dtype.h"
#include "cuda/common/api.h"

namespace cnv2 {

constexpr int64_t kLayerNormWidest = 8192;  // channels; three floats for each must fit into 99 KB of shared memory

struct LayerNormForward {
  const void* x;       // [rows, c] dtype
  const void* weight;  // [c] param_dtype
  const void* bias;    // [c] param_dtype
  void* y;             // [rows, c] dtype
  int64_t rows, c;
  float eps;
  DType dtype;
  DType param_dtype;  // dtype, or kFloat32
};

struct LayerNormBackward {
  const void* dy;      // [rows, c] dtype
  const void* x;       // [rows, c] dtype
  const void* weight;  // [c] param_dtype
  void* dx;            // [rows, c] dtype
  float* partial;      // [blocks, 2, c]: sums of each block; of dy xhat for weight, then of dy for bias
  int64_t rows, c;
  float eps;
  DType dtype;
  DType param_dtype;
};

// Each enqueues one call on `stream` of the current device and returns the first error of a launch.
cudaError_t launch_layer_norm_forward(const LayerNormForward& params, cudaStream_t stream);

// How many blocks a backward call uses, each with a row of `partial`: a function of sizes and device only.
cudaError_t layer_norm_backward_blocks(const LayerNormBackward& params, int64_t* blocks);
cudaError_t launch_layer_norm_backward(const LayerNormBackward& params, int64_t blocks, cudaStream_t stream);

}  // namespace cnv2
