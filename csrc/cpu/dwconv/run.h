// Whole calls of the depthwise convolution: cut up, packed, and divided among the threads. No framework header.
#pragma once

#include "cpu/common/parallel.h"
#include "dwconv.h"

namespace cnv2 {

// The forward, or the gradient of the input. Packs the parameters into this thread's scratch memory.
void run_dwconv(const DwconvForward& p, const Parallel& parallel);

// The forward on parameters that DwconvCpu::pack of `cpu` has packed.
void run_dwconv(const DwconvCpu& cpu, const DwconvForward& p, const float* packed, const Parallel& parallel);

// How many floats of memory `partial` must be for run_dwconv_sums; 0: that writes to its result at once.
int64_t dwconv_partial_floats(const DwconvBackward& p);

// The gradients of taps and bias, [50, C].
void run_dwconv_sums(DwconvBackward p, float* out, const Parallel& parallel);

}  // namespace cnv2
