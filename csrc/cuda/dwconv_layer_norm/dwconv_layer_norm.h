// Launches the CUDA kernels of dwconv_layer_norm. No framework header.
#pragma once

#include "cnv2/cuda_api.h"
#include "cnv2/dwconv_layer_norm.h"

namespace cnv2 {

// Enqueues one call on `stream` of the current device. Returns the launch's error.
cudaError_t launch_dwconv_layer_norm(const DwconvLayerNormParams& params, cudaStream_t stream);

}  // namespace cnv2
