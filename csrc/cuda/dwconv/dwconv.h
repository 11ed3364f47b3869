// Launches the CUDA kernels of the depthwise convolution. No framework header.
#pragma once

#include "common/dwconv.h"
#include "cuda/common/api.h"

namespace cnv2 {

// Whether the tensor cores' kernels take a call on the current device. They take 16-bit activations of a dense plane
// whose C is a multiple of 8, on compute capability 8.0 and newer. ops/_dwconv/cuda.py has the same rule.
inline bool takes_mma(DType dtype, int64_t c, bool dense) {
  CudaDevice device{};
  return dtype != DType::kFloat32 && dense && c % 8 == 0 && cuda_device(&device) == cudaSuccess &&
         device.capability >= 80;
}

// Each function below that takes a stream enqueues its work there, on the current device, and returns the first error
// of a launch. `mma`: on the tensor cores, which must take the call, with the taps rounded to x's dtype. Their kernels
// move 16 bytes at a time: where a tensor is a view that begins at another address, the ordinary kernels run in their
// place.

// p.y, without LayerNorm.
cudaError_t launch_dwconv(const DwconvForward& p, bool mma, cudaStream_t stream);

// p.y with LayerNorm, of T rows, and p.z if it is not null. Where no kernel can hold all channels, there are two, with
// z between them; `*needs_z` says that they wait for a z, and that nothing was enqueued.
cudaError_t launch_dwconv_layer_norm(const DwconvForward& p, int64_t rows, cudaStream_t stream, bool* needs_z);

// How many blocks share the sums of a backward call, which is the leading size of p.partial: a function of sizes,
// alignment and device.
cudaError_t dwconv_backward_blocks(const DwconvBackward& p, bool mma, int64_t* blocks);

// p.dx and p.partial, of which either may be null: not wanted.
cudaError_t launch_dwconv_backward(const DwconvBackward& p, bool mma, int64_t blocks, cudaStream_t stream);

}  // namespace cnv2
