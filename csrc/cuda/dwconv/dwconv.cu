// Chooses the kernels of a call.
#include "dwconv.h"

#include "cuda/common/dtype.cuh"
#include "cuda/layer_norm/layer_norm.h"
#include "launchers.h"

namespace cnv2 {
namespace {

cudaError_t launch_forward(const DwconvForward& p, cudaStream_t stream, bool* ran) {
  return with_dtype(p.dtype, [&](auto type) { return launch_forward_as<decltype(type)>(p, stream, ran); });
}

// The blocks of the tensor cores' sums; none: the kernel that takes all gradients in one pass runs.
cudaError_t mma_blocks(const DwconvBackward& p, bool mma, int64_t* blocks) {
  *blocks = 0;
  return mma ? taps_mma_blocks(p, blocks) : cudaSuccess;
}

}  // namespace

cudaError_t launch_dwconv(const DwconvForward& p, bool mma, cudaStream_t stream) {
  bool ran = false;
  const cudaError_t error = mma ? launch_forward_mma(p, stream, &ran) : cudaSuccess;
  return error != cudaSuccess || ran ? error : launch_forward(p, stream, &ran);
}

cudaError_t launch_dwconv_layer_norm(const DwconvForward& p, int64_t rows, cudaStream_t stream, bool* needs_z) {
  bool fused = false;
  cudaError_t error = launch_forward(p, stream, &fused);
  *needs_z = error == cudaSuccess && !fused && p.z == nullptr;
  if (error != cudaSuccess || fused || *needs_z) return error;
  DwconvForward convolution = p;
  convolution.ln_weight = convolution.ln_bias = convolution.z = nullptr;
  convolution.y = p.z;
  error = launch_forward(convolution, stream, &fused);
  if (error != cudaSuccess) return error;
  return launch_layer_norm_forward({p.z, p.ln_weight, p.ln_bias, p.y, rows, p.c, p.eps, p.dtype, p.param_dtype},
                                   stream);
}

cudaError_t dwconv_backward_blocks(const DwconvBackward& p, bool mma, int64_t* blocks) {
  const cudaError_t error = mma_blocks(p, mma, blocks);
  if (error != cudaSuccess || *blocks > 0) return error;
  return with_dtype(p.dtype, [&](auto type) { return backward_blocks_as<decltype(type)>(p, blocks); });
}

cudaError_t launch_dwconv_backward(const DwconvBackward& p, bool mma, int64_t blocks, cudaStream_t stream) {
  int64_t on_tensor_cores = 0;
  const bool sums = p.partial != nullptr;
  cudaError_t error = mma_blocks(p, mma && sums, &on_tensor_cores);
  const bool apart = !sums || on_tensor_cores > 0;
  if (error == cudaSuccess && apart && p.dx != nullptr) error = launch_dwconv(input_gradient(p), mma, stream);
  if (error != cudaSuccess || !sums) return error;
  return apart ? launch_taps_mma(p, stream)
               : with_dtype(p.dtype, [&](auto type) { return launch_backward_as<decltype(type)>(p, blocks, stream); });
}

}  // namespace cnv2
