// The mean over the rows of each sample's map on CPUs: global average pooling. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/array.h"
#include "cpu/common/isa_table.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct PoolForward {
  ConstArray x;           // [n, rows, C]
  int64_t n, rows, c;     // rows >= 1
  float* __restrict__ y;  // [n, C]
};

struct PoolCpu {
  // Sums are float32, in an order that follows from `rows` alone.
  void (*forward)(const PoolForward&, const Parallel&);
};

CNV2_ISA_TABLE(CNV2_FLOAT_ISAS, PoolCpu, kPool, pool_cpu)

}  // namespace cnv2
