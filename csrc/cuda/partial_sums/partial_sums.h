// Finishes split reductions: every op's blocks write partial sums, this adds them up. No framework header.
#pragma once

#include "cuda/common/api.h"

namespace cnv2 {

// out[m] = sum over p of partial[p, m], in an order that depends on `parts` alone; zeros without parts.
cudaError_t launch_sum_partials(const float* __restrict__ partial,  // [parts, columns]
                                float* __restrict__ out,            // [columns]
                                int64_t parts, int64_t columns, cudaStream_t stream);

}  // namespace cnv2
