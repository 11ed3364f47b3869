// Starts the tensor cores' gradients of taps and bias.
#include "launchers.h"
#include "mma_taps_kernel.cuh"

namespace cnv2 {
namespace {

cudaError_t taps_launch(const DwconvBackward& p, MmaLaunch* start) {
  return mma_launch(p.plane, p.c, kTapSlots, is_aligned16(p.c, 2, p.x, p.dy), start);
}

}  // namespace

cudaError_t taps_mma_blocks(const DwconvBackward& p, int64_t* blocks) {
  MmaLaunch start;
  const cudaError_t error = taps_launch(p, &start);
  *blocks = start.blocks;
  return error;
}

cudaError_t launch_taps_mma(const DwconvBackward& p, cudaStream_t stream) {
  MmaLaunch start;
  const cudaError_t error = taps_launch(p, &start);
  if (error != cudaSuccess) return error;
  const auto kernel = p.dtype == DType::kBFloat16 ? dwconv_taps_mma_kernel<BFloat16> : dwconv_taps_mma_kernel<Half>;
  return launch(kernel, start.size(), kMmaThreads, kTapShared, stream, p, start.grid);
}

}  // namespace cnv2
