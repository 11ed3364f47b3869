// Finishes split reductions: every op's blocks write partial sums, this adds them up, all those of an operator in one
// launch. No framework header.
#pragma once

#include "common/dtype.h"
#include "cuda/common/api.h"

namespace cnv2 {

// out[m] = sum over p of partial[p * pitch + m], in an order that depends on `parts` alone; zeros without parts.
struct SumJob {
  const float* partial;  // [parts, pitch], of which each part's first `columns` are added up
  void* out;             // [columns] dtype
  int64_t parts, columns, pitch;
  DType dtype;
  // The channels C where the columns are taps [49, C], tap = kx * 7 + ky, to be written as [C, 7, 7]; else 0.
  int64_t channels_of_taps;
};

constexpr int kSumJobs = 8;

struct SumJobs {
  SumJob job[kSumJobs];
  int count = 0;

  // A sum that is written as it lies.
  void add(const float* partial, void* out, DType dtype, int64_t parts, int64_t columns, int64_t pitch) {
    job[count++] = {partial, out, parts, columns, pitch, dtype, 0};
  }
  void add(const float* partial, float* out, int64_t parts, int64_t columns) {
    add(partial, out, DType::kFloat32, parts, columns, columns);
  }
};

cudaError_t launch_sums(const SumJobs& jobs, cudaStream_t stream);

}  // namespace cnv2
