// The CPU implementations of dwconv_layer_norm, one per instruction set. No framework header.
#pragma once

#include <cstdint>

#include "cnv2/cpu_features.h"
#include "cnv2/dwconv_layer_norm.h"

namespace cnv2 {

// How one call is cut up. A tile is `rows` x `columns` output pixels of one sample with all their channels; its
// float32 convolution result stays in the cache until LayerNorm has read it.
struct DwconvLayerNormTiling {
  int64_t rows, columns;
  int64_t tiles_y, tiles_x;
  int64_t tiles;           // n * tiles_y * tiles_x, independent of each other
  int64_t blocks;          // vectors of channels
  int64_t packed_floats;   // of the packed parameters
  int64_t scratch_floats;  // of one tile
};

struct DwconvLayerNormCpu {
  // How to cut this call up for `threads` threads. The results do not depend on it.
  DwconvLayerNormTiling (*tiling)(const DwconvLayerNormParams&, int64_t threads);
  // Packs the parameters of channel blocks [begin, end) as float32, in the order the kernel reads them.
  void (*pack)(const DwconvLayerNormParams&, float* packed, int64_t begin, int64_t end);
  // Computes tiles [begin, end).
  void (*run)(const DwconvLayerNormParams&, const DwconvLayerNormTiling&, const float* packed, float* scratch,
              int64_t begin, int64_t end);
};

extern const DwconvLayerNormCpu kDwconvLayerNormScalar;
#ifdef CNV2_HAVE_AVX2
extern const DwconvLayerNormCpu kDwconvLayerNormAvx2;
#endif
#ifdef CNV2_HAVE_AVX512
extern const DwconvLayerNormCpu kDwconvLayerNormAvx512;
#endif

inline const DwconvLayerNormCpu& dwconv_layer_norm_cpu(CpuIsa isa) {
  switch (isa) {
#ifdef CNV2_HAVE_AVX512
    case CpuIsa::kAvx512:
      return kDwconvLayerNormAvx512;
#endif
#ifdef CNV2_HAVE_AVX2
    case CpuIsa::kAvx2:
      return kDwconvLayerNormAvx2;
#endif
    default:
      return kDwconvLayerNormScalar;
  }
}

}  // namespace cnv2
