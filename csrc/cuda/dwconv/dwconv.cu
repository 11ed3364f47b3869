// Hands a call to the code of its storage type.
#include "dwconv.h"

#include "cnv2/cuda_launch.cuh"

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

cudaError_t dwconv_backward_blocks(const DwconvBackward& p, int64_t* blocks) {
  return with_dtype(p.dtype, [&](auto type) { return backward_blocks_as<decltype(type)>(p, blocks); });
}

cudaError_t launch_dwconv_backward(const DwconvBackward& p, int64_t blocks, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto type) { return launch_backward_as<decltype(type)>(p, blocks, stream); });
}

}  // namespace cnv2
