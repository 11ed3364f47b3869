#pragma once
#include "cnv2/cuda_api.h"
namespace cnv2 {
cudaError_t launch_sum_partials(const float* partial, float* out, int64_t parts, int64_t columns, cudaStream_t stream);
}
