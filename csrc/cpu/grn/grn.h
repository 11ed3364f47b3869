// GRN over groups of rows [T, C] on CPUs, forward and backward. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/cpu_features.h"
#include "common/row_groups.h"
#include "cpu/common/array.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct GrnForward {
  RowGroups groups;
  int64_t c;
  float eps;
  ConstArray x, gamma, beta;
  void* y;      // x's dtype
  float* norm;  // [groups, C]
};

struct GrnBackward {
  RowGroups groups;
  int64_t c;
  float eps;
  ConstArray dy, x, gamma;  // dy in x's dtype
  const float* norm;        // [groups, C]
  void* dx;
  float *dgamma, *dbeta;  // [C]
};

struct GrnCpu {
  void (*forward)(const GrnForward&, const Parallel&);
  void (*backward)(const GrnBackward&, const Parallel&);
};

extern const GrnCpu kGrnScalar;
#ifdef CNV2_HAVE_AVX2
extern const GrnCpu kGrnAvx2;
#endif
#ifdef CNV2_HAVE_AVX512
extern const GrnCpu kGrnAvx512;
#endif

inline const GrnCpu& grn_cpu(CpuIsa isa) {
  switch (isa) {
#ifdef CNV2_HAVE_AVX512
    case CpuIsa::kAvx512:
      return kGrnAvx512;
#endif
#ifdef CNV2_HAVE_AVX2
    case CpuIsa::kAvx2:
      return kGrnAvx2;
#endif
    default:
      return kGrnScalar;
  }
}

}  // namespace cnv2
