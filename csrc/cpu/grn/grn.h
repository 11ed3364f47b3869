// GRN over groups of rows [T, C] on CPUs, forward and backward. No framework header.
#pragma once

#include <cstdint>

#include "common/row_groups.h"
#include "cpu/common/array.h"
#include "cpu/common/isa_table.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct GrnForward {
  RowGroups groups;
  int64_t c;
  float eps;
  ConstArray x;              // [T, C]
  ConstArray gamma, beta;    // [C]
  void* __restrict__ y;      // [T, C] in x's dtype
  float* __restrict__ norm;  // [groups, C]
};

struct GrnBackward {
  RowGroups groups;
  int64_t c;
  float eps;
  ConstArray dy, x;                // [T, C], in one dtype
  ConstArray gamma;                // [C]
  const float* __restrict__ norm;  // [groups, C]
  void* __restrict__ dx;           // [T, C] in x's dtype
  float* __restrict__ dgamma;      // [C]
  float* __restrict__ dbeta;       // [C]
};

struct GrnCpu {
  void (*forward)(const GrnForward&, const Parallel&);
  void (*backward)(const GrnBackward&, const Parallel&);
};

CNV2_ISA_TABLE(CNV2_FLOAT_ISAS, GrnCpu, kGrn, grn_cpu)

}  // namespace cnv2
