// The mean over the rows of each sample's map on CPUs: global average pooling. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/array.h"
#include "cpu/common/isa_table.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct MeanForward {
  ConstArray x;           // [n, rows, C]
  int64_t n, rows, c;     // rows >= 1
  float* __restrict__ y;  // [n, C]
};

struct MeanCpu {
  // Sums are float32, in an order that follows from `rows` alone.
  void (*forward)(const MeanForward&, const Parallel&);
};

CNV2_ISA_TABLE(CNV2_FLOAT_ISAS, MeanCpu, kMean, mean_cpu)

}  // namespace cnv2
