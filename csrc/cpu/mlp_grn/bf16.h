// mlp_grn for CPUs that multiply pairs of bfloat16, on bfloat16 activations. On others, `Others` runs, the kernels of
// another instruction set.
#pragma once

#include "backward.h"
#include "forward.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op, const MlpGrnCpu& Others>
struct MlpGrnBf16Kernel {
  using Common = MlpGrnCommon<V, kRows, Op>;

  static bool pairs(const MlpGrnShape& s) { return s.activations == DType::kBFloat16; }
  static int64_t packed_floats(const MlpGrnShape& s) {
    return pairs(s) ? Common::packed_floats(s) : Others.packed_floats(s);
  }
  static void pack(const MlpGrnShape& s, const MlpGrnWeights& w, float* packed, const Parallel& parallel) {
    pairs(s) ? Common::pack(s, w, packed, parallel) : Others.pack(s, w, packed, parallel);
  }
  static void forward(const MlpGrnForward& p, const Parallel& parallel) {
    pairs(p.shape) ? MlpGrnForwardRun<V, kRows, Op>(p, parallel).run() : Others.forward(p, parallel);
  }
  static void backward(const MlpGrnBackward& p, const Parallel& parallel) {
    pairs(p.shape) ? MlpGrnBackwardRun<V, kRows, Op>(p, parallel).run() : Others.backward(p, parallel);
  }
};

}  // namespace
}  // namespace cnv2
