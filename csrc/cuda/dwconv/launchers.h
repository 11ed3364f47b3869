// The launchers of each kernel of the depthwise convolution, among which dwconv.cu chooses.
#pragma once

#include "dwconv.h"

namespace cnv2 {

// `*ran`: whether a kernel can run the call; without LayerNorm one always can. If not, nothing was enqueued.
template <class T>
cudaError_t launch_forward_as(const DwconvForward& p, cudaStream_t stream, bool* ran);

// The input's gradient, unless p.dx is null, and the sums of taps and bias in one pass.
template <class T>
cudaError_t backward_blocks_as(const DwconvBackward& p, int64_t* blocks);
template <class T>
cudaError_t launch_backward_as(const DwconvBackward& p, int64_t blocks, cudaStream_t stream);

// The tensor cores' kernels, of calls that takes_mma accepts. They do not run, `*ran` is false or there are no blocks,
// where memory is not aligned to 16 bytes, where the plane is empty and where its pieces are too many for an int.
cudaError_t launch_forward_mma(const DwconvForward& p, cudaStream_t stream, bool* ran);

// The sums of taps and bias alone.
cudaError_t taps_mma_blocks(const DwconvBackward& p, int64_t* blocks);
cudaError_t launch_taps_mma(const DwconvBackward& p, cudaStream_t stream);

}  // namespace cnv2
