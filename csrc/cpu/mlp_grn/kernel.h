// The one source of mlp_grn's CPU kernels; each instruction set's .cpp includes it with its own flags. All names have
// internal linkage, so that no two objects share a symbol.
#pragma once

#include "backward.h"
#include "forward.h"

namespace cnv2 {
namespace {

template <class V, int kRows>
struct MlpGrnKernel {
  static int64_t packed_floats(const MlpGrnShape& s) { return MlpGrnCommon<V, kRows>::packed_floats(s); }
  static void pack(const MlpGrnShape& s, const MlpGrnWeights& w, float* packed, const Parallel& parallel) {
    MlpGrnCommon<V, kRows>::pack(s, w, packed, parallel);
  }
  static void forward(const MlpGrnForward& p, const Parallel& parallel) {
    MlpGrnForwardRun<V, kRows>(p, parallel).run();
  }
  static void backward(const MlpGrnBackward& p, const Parallel& parallel) {
    MlpGrnBackwardRun<V, kRows>(p, parallel).run();
  }
};

}  // namespace
}  // namespace cnv2
