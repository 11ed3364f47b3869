// patch_conv for CPUs that multiply pairs of bfloat16, on bfloat16 activations. On others, `Others` runs, the kernels
// of another instruction set.
#pragma once

#include "backward.h"
#include "kernel.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op, const PatchConvCpu& Others>
struct PatchConvBf16Kernel {
  using Kernel = PatchConvKernel<V, kRows, Op>;
  using Backward = PatchConvBackward<V, kRows, Op>;

  static bool pairs(DType activations) { return activations == DType::kBFloat16; }
  static int64_t packed_floats(const PatchWeight& w) {
    return pairs(w.activations) ? Kernel::packed_floats(w) : Others.packed_floats(w);
  }
  static void pack(const PatchWeight& w, float* packed, const Parallel& parallel) {
    pairs(w.activations) ? Kernel::pack(w, packed, parallel) : Others.pack(w, packed, parallel);
  }
  static void run(const PatchConvForward& p, const Parallel& parallel) {
    pairs(p.x.dtype) ? Kernel::run(p, parallel) : Others.run(p, parallel);
  }
  static void parameter_gradients(const PatchParameterGradients& p, const Parallel& parallel) {
    pairs(p.of.x.dtype) ? Backward::parameters(p, parallel) : Others.parameter_gradients(p, parallel);
  }
  static void input_gradient(const PatchInputGradient& p, const Parallel& parallel) {
    pairs(p.of.x.dtype) ? Backward::input(p, parallel) : Others.input_gradient(p, parallel);
  }
};

}  // namespace
}  // namespace cnv2
