#pragma once

#include "dwconv_layer_norm.h"

namespace cnv2 {

// Computes a prepared call on the CPU, over torch's threads.
void run_dwconv_layer_norm_cpu(const Tensor& x, const DwconvLayerNormParams& params);

}  // namespace cnv2
