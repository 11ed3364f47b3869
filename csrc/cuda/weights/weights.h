// Brings the weights of a block into the form that its kernels and products take, all in one launch. No framework
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

// Enqueues work on `stream` of the current device and returns the error of the launch.
cudaError_t launch_block_casts(const BlockCasts& p, cudaStream_t stream);

}  // namespace cnv2
