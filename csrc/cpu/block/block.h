// A whole block for inference on CPUs: y = x + layer_scale * MLP(LayerNorm(dwconv(x))), the MLP that of mlp_grn. Some
// samples at a time, so that what the convolution writes is in the cache when the MLP reads it. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/array.h"
#include "cpu/common/packed.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct BlockWeights {
  int64_t c, hidden;
  StridedArray kernel;                  // [C, 1, 7, 7]
  ConstArray bias, ln_weight, ln_bias;  // [C]
  ConstArray w1, b1, beta, w2, b2;      // [K, C], [K], [K], [C, K], [C]
  ConstArray layer_scale;               // [C], folded into w2 and b2; data null: none
};

struct BlockForward {
  int64_t n, h, w, c, hidden;
  ConstArray x;         // [N, H, W, C]
  const float* packed;  // of pack_block, for x's dtype
  ConstArray gamma;     // [K]
  float ln_eps, grn_eps;
  void* y;  // [N, H, W, C] in x's dtype
};

// What packed weights are, for activations of this dtype.
PackedKind block_kind(CpuIsa isa, DType activations);
int64_t block_packed_floats(const PackedKind& kind, int64_t c, int64_t hidden);
void pack_block(const PackedKind& kind, const BlockWeights& w, float* packed, const Parallel& parallel);
// All on the instruction set `isa`, for which the weights must have been packed.
void run_block(CpuIsa isa, const BlockForward& p, const Parallel& parallel);

}  // namespace cnv2
