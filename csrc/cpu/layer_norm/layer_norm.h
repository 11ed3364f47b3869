// LayerNorm over the channels of rows [T, C] on CPUs, forward and backward. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/cpu_features.h"
#include "cpu/common/array.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct LayerNormForward {
  ConstArray x, weight, bias;
  void* y;  // x's dtype
  int64_t rows, c;
  float eps;
};

struct LayerNormBackward {
  ConstArray dy, x, weight;  // dy in x's dtype
  void* dx;
  float* dparams;  // [2, C]: the gradients of weight and bias
  int64_t rows, c;
  float eps;
};

struct LayerNormCpu {
  void (*forward)(const LayerNormForward&, const Parallel&);
  void (*backward)(const LayerNormBackward&, const Parallel&);
};

extern const LayerNormCpu kLayerNormScalar;
#ifdef CNV2_HAVE_AVX2
extern const LayerNormCpu kLayerNormAvx2;
#endif
#ifdef CNV2_HAVE_AVX512
extern const LayerNormCpu kLayerNormAvx512;
#endif

inline const LayerNormCpu& layer_norm_cpu(CpuIsa isa) {
  switch (isa) {
#ifdef CNV2_HAVE_AVX512
    case CpuIsa::kAvx512:
      return kLayerNormAvx512;
#endif
#ifdef CNV2_HAVE_AVX2
    case CpuIsa::kAvx2:
      return kLayerNormAvx2;
#endif
    default:
      return kLayerNormScalar;
  }
}

}  // namespace cnv2
