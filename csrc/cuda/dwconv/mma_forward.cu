// Starts the tensor cores' convolution where it can run.
#include "dwconv.h"
#include "mma_forward_kernel.cuh"

namespace cnv2 {
namespace {

template <class T>
cudaError_t launch_mma_as(const DwconvForward& p, const CudaDevice& device, cudaStream_t stream, bool* ran) {
  const MmaLaunch start(p.plane, p.c, kMmaSlots, device);
  *ran = start.blocks > 0;
  if (!*ran) return cudaSuccess;
  return launch(dwconv_forward_mma_kernel<T>, start.size(), kMmaThreads, kMmaShared, stream, p, start.grid);
}

}  // namespace

cudaError_t launch_dwconv_forward_mma(const DwconvForward& p, cudaStream_t stream, bool* ran) {
  *ran = false;
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  if (device.capability < 80 || p.plane.map != nullptr || p.ln_weight != nullptr || p.z != nullptr ||
      !is_aligned16(p.c, 2, p.x, p.y))
    return cudaSuccess;
  if (p.dtype == DType::kBFloat16) return launch_mma_as<BFloat16>(p, device, stream, ran);
  if (p.dtype == DType::kFloat16) return launch_mma_as<Half>(p, device, stream, ran);
  return cudaSuccess;
}

}  // namespace cnv2
