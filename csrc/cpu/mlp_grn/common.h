// What the forward and the backward of mlp_grn share: packed weights, products of whole row blocks, division of labour.
#pragma once

#include <cstring>

#include "cpu/common/gelu.h"
#include "cpu/common/scratch.h"
#include "cpu/gemm/gemm.h"
#include "cpu/grn/factors.h"
#include "mlp_grn.h"
#include "plan.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op = PlainFloats<V>>
struct MlpGrnCommon : Gemm<V, kRows, Op> {
  using G = Gemm<V, kRows, Op>;
  using G::kBlock, G::kVector;
  using typename G::T;

  // ---- packed weights ---------------------------------------------------------------------------------------------

  // Vectors are completed to whole blocks.
  struct Packed {
    const float* __restrict__ w1;       // panels [blocks(hidden)][words(c_in)][kBlock]
    const float* __restrict__ b1;       // [hidden]
    const float* __restrict__ w2;       // panels [blocks(c_out)][words(hidden)][kBlock]
    const float* __restrict__ b2;       // [c_out]
    const float* __restrict__ beta;     // [hidden]
    const float* __restrict__ b2_beta;  // [c_out]: b2 + w2 beta, for an operand without GRN's beta
  };
  static int64_t w1_floats(const MlpGrnShape& s) { return T::blocks(s.hidden) * T::words(s.c_in) * kBlock; }
  static int64_t w2_floats(const MlpGrnShape& s) { return T::blocks(s.c_out) * T::words(s.hidden) * kBlock; }
  static int64_t packed_floats(const MlpGrnShape& s) {
    return w1_floats(s) + w2_floats(s) + 2 * (T::blocks(s.hidden) + T::blocks(s.c_out)) * kBlock;
  }
  static Packed unpack(const MlpGrnShape& s, const float* packed) {
    const float* w2 = packed + w1_floats(s);
    const float* b1 = w2 + w2_floats(s);
    const float* beta = b1 + T::blocks(s.hidden) * kBlock;
    const float* b2 = beta + T::blocks(s.hidden) * kBlock;
    return {packed, b1, w2, b2, beta, b2 + T::blocks(s.c_out) * kBlock};
  }

  static void pack(const MlpGrnShape& s, const MlpGrnWeights& w, float* packed, const Parallel& parallel) {
    const Packed to = unpack(s, packed);
    G::pack_transposed(w.w1, s.hidden, s.c_in, const_cast<float*>(to.w1), parallel);
    G::pack_transposed(w.w2, s.c_out, s.hidden, const_cast<float*>(to.w2), parallel);
    G::pack_vector(w.b1, s.hidden, const_cast<float*>(to.b1));
    G::pack_vector(w.beta, s.hidden, const_cast<float*>(to.beta));
    G::pack_vector(w.b2, s.c_out, const_cast<float*>(to.b2));
    float* sums = const_cast<float*>(to.b2_beta);
    G::pack_vector(w.b2, s.c_out, sums);
    parallel(0, T::blocks(s.c_out), grain(s.hidden * kBlock), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        add_product(to.beta, to.w2 + o * T::words(s.hidden) * kBlock, s.hidden, sums + o * kBlock);
    });
  }

  // Where the hidden activations before GELU are saved, of a row block and hidden panel j: group by group, blocked
  // within it, whatever the chunks of forward and backward are.
  static int64_t saved_at(const RowPlan& plan, const RowChunk& chunk, const RowBlock& block, int64_t panels,
                          int64_t j) {
    const int64_t group = chunk.group_begin + block.group, first = plan.first_row(group);
    const int64_t rows = plan.first_row(group + 1) - first;
    return (first * panels + j * rows + chunk.begin + block.begin - first) * kBlock;
  }

  // out += sum_k v[k] panel[k]. Sums of few terms, then their sum: an error here is every row's alike.
  static void add_product(const float* __restrict__ v,      // [count]
                          const float* __restrict__ panel,  // [words(count)][kBlock]
                          int64_t count,
                          float* __restrict__ out) {  // [kBlock]
    constexpr int64_t kTerms = 32;
    V all0 = V::load(out), all1 = V::load(out + kVector);
    for (int64_t first = 0; first < count; first += kTerms) {
      V sum0 = V::zero(), sum1 = V::zero();
      for (int64_t k = first; k < count && k < first + kTerms; k += Op::kNumbers) {
        Op::add_scaled(panel + k / Op::kNumbers * kBlock, v + k, sum0, sum1);
      }
      all0 = V::add(all0, sum0);
      all1 = V::add(all1, sum1);
    }
    all0.store(out);
    all1.store(out + kVector);
  }

  // Adds the sums [count] of a chunk's row blocks to those of their groups, [groups][count]. Overwrites `of_blocks`.
  static void add_block_sums(const RowBlock* blocks, int64_t number, float* __restrict__ of_blocks,
                             float* __restrict__ of_groups, int64_t count) {
    using R = RowVectors<V>;
    for (int64_t b = 0, next = 0; b < number; b = next) {
      while (next < number && blocks[next].group == blocks[b].group) ++next;
      R::add_in_pairs(of_blocks + b * count, next - b, count);
      R::add(of_groups + blocks[b].group * count, of_blocks + b * count, count);
    }
  }

  // ---- division of labour -----------------------------------------------------------------------------------------

  // Calls body(run of row blocks, its first row, its rows) for runs of about kRowsAtOnce rows.
  template <class F>
  static CNV2_INLINE void each_run(const RowBlock* blocks, int64_t begin, int64_t end, const F& body) {
    while (begin < end) {
      int64_t last = begin + 1;
      while (last < end && blocks[last].end - blocks[begin].begin <= G::kRowsAtOnce) ++last;
      body(begin, last, blocks[begin].begin, blocks[last - 1].end - blocks[begin].begin);
      begin = last;
    }
  }

  // Threads share the row blocks where there are enough for all; else each takes all rows and some of the columns.
  static bool by_rows(const RowBlock* blocks, int64_t count, int64_t rows, int64_t threads) {
    if (threads <= 1) return true;
    const int64_t share = (count + threads - 1) / threads;  // parallel loops give every thread so many blocks
    int64_t most = 0;
    for (int64_t b = 0; b < count; b += share) {
      const int64_t last = b + share < count ? b + share : count;
      const int64_t here = blocks[last - 1].end - blocks[b].begin;
      most = here > most ? here : most;
    }
    return most * threads * 8 <= rows * 9 && rows >= 4 * kRows * threads;
  }

  // Runs body(b0, b1, j0, j1) over row blocks [0, count) and columns [0, columns); `work` multiply-adds a column.
  template <class F>
  static void split(const Parallel& parallel, bool by_rows, int64_t count, int64_t columns, int64_t work,
                    const F& body) {
    if (by_rows) {
      parallel(0, count, grain(work * columns / count),
               [&](int64_t b0, int64_t b1) { body(b0, b1, int64_t{0}, columns); });
    } else {
      parallel(0, columns, grain(work), [&](int64_t j0, int64_t j1) { body(int64_t{0}, count, j0, j1); });
    }
  }
};

}  // namespace
}  // namespace cnv2
