// Starts the tensor cores' gradients of taps and bias where they can run.
#include "dwconv.h"
#include "mma_taps_kernel.cuh"

namespace cnv2 {
namespace {

cudaError_t taps_launch(const DwconvBackward& p, MmaLaunch* out) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  *out = MmaLaunch(p.plane, p.c, kTapSlots, device);
  if (device.capability < 80 || p.plane.map != nullptr || p.dtype == DType::kFloat32 ||
      !is_aligned16(p.c, 2, p.x, p.dy))
    out->blocks = 0;
  return cudaSuccess;
}

}  // namespace

cudaError_t dwconv_taps_mma_blocks(const DwconvBackward& p, int64_t* blocks) {
  MmaLaunch start;
  const cudaError_t error = taps_launch(p, &start);
  *blocks = start.blocks;
  return error;
}

cudaError_t launch_dwconv_taps_mma(const DwconvBackward& p, cudaStream_t stream) {
  MmaLaunch start;
  const cudaError_t error = taps_launch(p, &start);
  if (error != cudaSuccess) return error;
  const auto run = p.dtype == DType::kBFloat16 ? dwconv_taps_mma_kernel<BFloat16> : dwconv_taps_mma_kernel<Half>;
  return launch(run, start.size(), kMmaThreads, kTapShared, stream, p, start.grid);
}

}  // namespace cnv2
