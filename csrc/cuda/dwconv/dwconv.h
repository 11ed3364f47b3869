// Launches the CUDA kernels of the depthwise convolution. No framework header.
#pragma once

#include "common/dwconv.h"
#include "cuda/common/api.h"

namespace cnv2 {

// Enqueues one call on `stream` of the current device. Returns the launch's error. With LayerNorm, `*fused` says
// whether a kernel could hold all channels; if not, nothing was enqueued.
cudaError_t launch_dwconv_forward(const DwconvForward& params, cudaStream_t stream, bool* fused);

// The same in two kernels, with z, which must be given, between them. `rows`: T.
cudaError_t launch_dwconv_then_layer_norm(const DwconvForward& params, int64_t rows, cudaStream_t stream);

// The same on the tensor cores, without LayerNorm, on dense planes, the taps rounded to x's dtype. `*ran`: whether it
// can run; if not (float32, rows not made of 16-byte vectors, LayerNorm, a map), nothing was enqueued.
cudaError_t launch_dwconv_forward_mma(const DwconvForward& params, cudaStream_t stream, bool* ran);

// Blocks that a backward call uses, each with a row [50, C] of `partial`: a function of sizes and device only.
cudaError_t dwconv_backward_blocks(const DwconvBackward& params, int64_t* blocks);

// Enqueues the gradients of input, taps and bias in one pass: every block leaves its sums in `partial`.
cudaError_t launch_dwconv_backward(const DwconvBackward& params, int64_t blocks, cudaStream_t stream);

// Blocks of a call of the tensor cores' gradients of taps and bias, each with a row of `partial`, or 0: they cannot
// run.
cudaError_t dwconv_taps_mma_blocks(const DwconvBackward& params, int64_t* blocks);

// Enqueues that call; `params.dx` is not looked at.
cudaError_t launch_dwconv_taps_mma(const DwconvBackward& params, cudaStream_t stream);

}  // namespace cnv2
