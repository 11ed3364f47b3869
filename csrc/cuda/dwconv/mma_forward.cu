// Starts the tensor cores' convolution.
#include "launchers.h"
#include "mma_forward_kernel.cuh"

namespace cnv2 {

cudaError_t launch_forward_mma(const DwconvForward& p, cudaStream_t stream, bool* ran) {
  MmaLaunch start;
  const cudaError_t error = mma_launch(p.plane, p.c, kMmaSlots, is_aligned16(p.c, 2, p.x, p.y, p.addend), &start);
  *ran = start.blocks > 0;
  if (!*ran) return error;
  const bool bf16 = p.dtype == DType::kBFloat16;
  const auto plain = bf16 ? dwconv_forward_mma_kernel<BFloat16, false> : dwconv_forward_mma_kernel<Half, false>;
  const auto adding = bf16 ? dwconv_forward_mma_kernel<BFloat16, true> : dwconv_forward_mma_kernel<Half, true>;
  const auto kernel = p.addend == nullptr ? plain : adding;
  return launch(kernel, start.size(), kMmaThreads, kMmaShared, stream, p, start.grid);
}

}  // namespace cnv2
