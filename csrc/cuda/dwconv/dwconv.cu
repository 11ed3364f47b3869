// Hands a call to the code of its storage type.
#include "dwconv.h"

#include "cuda/common/dtype.cuh"
#include "cuda/layer_norm/layer_norm.h"

namespace cnv2 {

template <class T>
cudaError_t launch_forward_as(const DwconvForward& p, cudaStream_t stream, bool* fused);
template <class T>
cudaError_t backward_blocks_as(const DwconvBackward& p, int64_t* blocks);
template <class T>
cudaError_t launch_backward_as(const DwconvBackward& p, int64_t blocks, cudaStream_t stream);

cudaError_t launch_dwconv_forward(const DwconvForward& p, cudaStream_t stream, bool* fused) {
  return with_dtype(p.dtype, [&](auto type) { return launch_forward_as<decltype(type)>(p, stream, fused); });
}

cudaError_t launch_dwconv_then_layer_norm(const DwconvForward& p, int64_t rows, cudaStream_t stream) {
  DwconvForward convolution = p;
  convolution.ln_weight = convolution.ln_bias = convolution.z = nullptr;
  convolution.y = p.z;
  bool fused = false;
  const cudaError_t error = launch_dwconv_forward(convolution, stream, &fused);
  if (error != cudaSuccess) return error;
  return launch_layer_norm_forward({p.z, p.ln_weight, p.ln_bias, p.y, rows, p.c, p.eps, p.dtype, p.param_dtype},
                                   stream);
}

cudaError_t dwconv_backward_blocks(const DwconvBackward& p, int64_t* blocks) {
  return with_dtype(p.dtype, [&](auto type) { return backward_blocks_as<decltype(type)>(p, blocks); });
}

cudaError_t launch_dwconv_backward(const DwconvBackward& p, int64_t blocks, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto type) { return launch_backward_as<decltype(type)>(p, blocks, stream); });
}

}  // namespace cnv2
