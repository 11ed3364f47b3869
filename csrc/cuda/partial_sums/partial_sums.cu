#include "partial_sums.h"
#include "cnv2/cuda_launch.cuh"
namespace cnv2 {
__global__ void sum_partials_kernel(const float* partial, float* out, int64_t parts, int64_t columns) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= columns) return;
  float total = 0;
  for (int64_t p = 0; p < parts; ++p) total += partial[p * columns + i];
  out[i] = total;
}
cudaError_t launch_sum_partials(const float* partial, float* out, int64_t parts, int64_t columns, cudaStream_t stream) {
  return launch(sum_partials_kernel, static_cast<unsigned>((columns + 127) / 128), 128, 0, stream, partial, out, parts, columns);
}
}
