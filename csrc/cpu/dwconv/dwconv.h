// The CPU implementations of the depthwise convolution, one per instruction set. No framework header.
#pragma once

#include <cstdint>

#include "common/dwconv.h"
#include "cpu/common/isa_table.h"

namespace cnv2 {

// How a plane is cut up: tiles of `rows` x `columns` sites of one sample.
struct DwconvTiles {
  int64_t rows, columns;
  int64_t tiles_y, tiles_x;
  int64_t tiles;  // n * tiles_y * tiles_x
};

// How one forward call is cut up. A tile's float32 convolution result stays in the cache until LayerNorm has read it.
struct DwconvCpuTiling : DwconvTiles {
  int64_t blocks;          // vectors of channels
  int64_t packed_floats;   // size of the packed parameters
  int64_t scratch_floats;  // scratch memory for one tile
};

// How the gradients of the parameters are cut up. A task sums some of the tiles for some of the channels.
struct DwconvSumsTiling : DwconvTiles {
  int64_t groups;  // number of groups of `group_blocks` vectors of channels
  int64_t group_blocks;
  int64_t slabs;  // number of slabs of tiles; it depends on the shape alone, and so does the order of additions
  int64_t scratch_floats;
};

struct DwconvCpu {
  // How to cut this call up for `threads` threads. The results do not depend on it.
  DwconvCpuTiling (*tiling)(const DwconvForward&, int64_t threads);
  // Packs the parameters of channel blocks [begin, end) as float32, in the order the kernel reads them.
  void (*pack)(const DwconvForward&, float* __restrict__ packed, int64_t begin, int64_t end);
  // Computes tiles [begin, end).
  void (*run)(const DwconvForward&, const DwconvCpuTiling&, const float* packed, float* scratch, int64_t begin,
              int64_t end);
  DwconvSumsTiling (*sums_tiling)(const DwconvBackward&);
  // Tasks [begin, end) of slabs * groups; each writes its part of `partial` [slabs, 50, C]. `dx` is not looked at.
  void (*sums)(const DwconvBackward&, const DwconvSumsTiling&, float* scratch, int64_t begin, int64_t end);
};

CNV2_ISA_TABLE(CNV2_FLOAT_ISAS, DwconvCpu, kDwconv, dwconv_cpu)

}  // namespace cnv2
