#include "partial_sums.h"

#include "partial_sums_kernel.cuh"

namespace cnv2 {

cudaError_t launch_sums(const SumJobs& jobs, cudaStream_t stream) {
  SumGrid grid{jobs, {}};
  int64_t blocks = 0;
  int warps = 1;
  for (int i = 0; i < jobs.count; ++i) {
    const int wanted = sum_warps(jobs.job[i].parts);
    warps = wanted > warps ? wanted : warps;
    blocks += (jobs.job[i].columns + kWarp - 1) / kWarp;
    if (blocks > 0x7fffffff) return cudaErrorInvalidValue;
    grid.first[i + 1] = static_cast<int>(blocks);
  }
  const unsigned threads = static_cast<unsigned>(warps) * kWarp;
  return launch(sums_kernel, dim3(static_cast<unsigned>(blocks)), threads, threads * int64_t{sizeof(float)}, stream,
                grid);
}

}  // namespace cnv2
