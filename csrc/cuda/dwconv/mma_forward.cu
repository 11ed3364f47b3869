// Starts the tensor cores' convolution where it can run.
#include "dwconv.h"
#include "mma_forward_kernel.cuh"

namespace cnv2 {
namespace {

template <class T>
cudaError_t launch_mma_as(const DwconvForward& p, const CudaDevice& device, cudaStream_t stream, bool* ran) {
  const auto rounded = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t bands = rounded(p.plane.h, kMmaRows), tiles = rounded(p.plane.w, kMmaColumns);
  const int64_t slots = p.plane.n * bands * tiles, groups = rounded(slots, kMmaSlots);
  const int64_t chunks = rounded(p.c, kMmaChannels), most = rounded(kMmaResident * device.processors, chunks);
  if (slots >= 0x3fffffff || chunks > 0xffff) return cudaSuccess;
  *ran = true;
  if (groups == 0) return cudaSuccess;
  const int64_t blocks = rounded(groups, rounded(groups, most));  // with a group more or less each
  const int64_t step = blocks * kMmaSlots;
  const auto as_int = [](int64_t value) { return static_cast<int>(value); };
  const MmaGrid grid{
      as_int(bands),       as_int(tiles), as_int(groups), as_int(step / (bands * tiles)), as_int(step / tiles % bands),
      as_int(step % tiles)};
  return launch(dwconv_forward_mma_kernel<T>, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(chunks)),
                kMmaThreads, kMmaShared, stream, p, grid);
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
