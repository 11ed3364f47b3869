// The parameters as the backward of mlp_grn reads them, packed anew in every call.
#pragma once

#include "common.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op>
struct MlpGrnBackwardWeights {
  using Common = MlpGrnCommon<V, kRows, Op>;
  using T = typename Common::T;
  static constexpr int kBlock = T::kBlock;

  explicit MlpGrnBackwardWeights(const MlpGrnShape& s)
      : in(T::words(s.c_in)), hidden(T::words(s.hidden)), out(T::words(s.c_out)) {
    const int64_t panels = T::blocks(s.hidden);
    const int64_t counts[] = {panels * in * kBlock, panels * out * kBlock, T::blocks(s.c_in) * hidden * kBlock,
                              panels * kBlock,      panels * kBlock,       panels * kBlock};
    int64_t all = 0;
    for (int64_t count : counts) all += count;
    float* memory = thread_scratch(ScratchSlot::kWeights, all);
    float** const places[] = {&w1, &w2, &w1_back, &b1, &gamma, &beta};
    for (int i = 0; i < 6; ++i) *places[i] = memory, memory += counts[i];
  }

  void pack(const MlpGrnBackward& p, const Parallel& parallel) const {
    const MlpGrnShape& s = p.shape;
    if (p.saved_hidden == nullptr) Common::pack_transposed(p.weights.w1, s.hidden, s.c_in, w1, parallel);
    Common::pack_panels(p.weights.w2, s.c_out, s.hidden, w2, parallel);
    Common::pack_panels(p.weights.w1, s.hidden, s.c_in, w1_back, parallel);
    Common::pack_vector(p.weights.b1, s.hidden, b1);
    Common::pack_vector(p.gamma, s.hidden, gamma);
    Common::pack_vector(p.weights.beta, s.hidden, beta);
  }

  int64_t in, hidden, out;   // words of a reduction over those channels
  float *w1, *w2, *w1_back;  // panels: w1' [in][hidden], w2 [out][hidden], w1 [hidden][in]
  float *b1, *gamma, *beta;  // [hidden] in whole blocks
};

}  // namespace
}  // namespace cnv2
