// LayerNorm over the channels of rows [T, C] on CPUs, forward and backward. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/array.h"
#include "cpu/common/isa_table.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct LayerNormForward {
  ConstArray x;             // [T, C]
  ConstArray weight, bias;  // [C]
  void* __restrict__ y;     // [T, C] in x's dtype
  int64_t rows, c;
  float eps;
};

struct LayerNormBackward {
  ConstArray dy, x;             // [T, C], in one dtype
  ConstArray weight;            // [C]
  void* __restrict__ dx;        // [T, C] in x's dtype
  float* __restrict__ dparams;  // [2, C]: the gradients of weight and bias
  int64_t rows, c;
  float eps;
};

struct LayerNormCpu {
  void (*forward)(const LayerNormForward&, const Parallel&);
  void (*backward)(const LayerNormBackward&, const Parallel&);
};

CNV2_ISA_TABLE(CNV2_FLOAT_ISAS, LayerNormCpu, kLayerNorm, layer_norm_cpu)

}  // namespace cnv2
