// Brings weights into the form that kernels and products take, all those of an operator in one launch. No framework
// header.
#pragma once

#include "common/dtype.h"
#include "cuda/common/api.h"

namespace cnv2 {

struct BlockTaps {
  const void* from;  // [C, 7, 7] dtype, or with `as_rows` [49, C], tap = kx * 7 + ky
  float* to;         // [49, C], or null: not wanted
  int64_t c;
  bool as_rows;
  DType dtype;
};

struct BlockMatrix {
  const float* from;  // `count` elements
  void* to;           // in 16 bits, aligned to 16 bytes, or null: not wanted
  int64_t count;
};

struct BlockCasts {
  BlockTaps taps;
  BlockMatrix matrix[2];
  DType dtype;  // of the matrices' copies
};

// The weight of a k x k convolution of stride k, as its parameter has it and as a product with blocks (ky, kx, cin)
// takes it: [c_out, c_in, k, k] and [c_out, k, k, c_in], or with `by_taps` [k * k, c_in, c_out], tap = kx * k + ky, and
// the same with tap = ky * k + kx. The numbers of a filter, or of a tap, stay together.
struct PatchWeight {
  const void* from;  // from_dtype
  void* to;          // to_dtype, which is from_dtype unless that is kFloat32; or null: not wanted
  int64_t c_out, c_in;
  int k;
  bool by_taps;
  bool back;            // from the product's form to the parameter's
  const float* vector;  // [count], to be cast beside
  void* vector_to;      // [count] vector_dtype, 16 bits; or null: not wanted
  int64_t count;
  DType from_dtype, to_dtype, vector_dtype;
};

// Each enqueues work on `stream` of the current device and returns the error of the launch.
cudaError_t launch_block_casts(const BlockCasts& p, cudaStream_t stream);
cudaError_t launch_patch_weight(const PatchWeight& p, cudaStream_t stream);

}  // namespace cnv2
