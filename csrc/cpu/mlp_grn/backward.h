// The backward of mlp_grn, a template over the vector type V, the rows of a register tile, and the products' operands.
//
// With dz the gradient of the second product, dv = dz w2, g = GELU(h), and GRN's s and dn / n of grn/factors.h:
//   dg = dv s + g dn / n;  dh = dg GELU'(h);  du = dh w1;  dw1 = dh' u;  dw2 = dz' (g s + beta)
// Chunk by chunk (plan.h), so that h and dv stay in the cache: h (computed again, unless the forward saved it), dv and
// the sums; then dh and v = g s + beta in their place, and du; then both weights' gradients, whose tiles the threads
// divide. Products of pairs round their operands and nothing else: u, dz, the weights, dh and v.
#pragma once

#include "backward_weights.h"
#include "hidden_gradient.h"
#include "weight_gradients.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op = PlainFloats<V>>
class MlpGrnBackwardRun : MlpGrnCommon<V, kRows, Op> {
  using Common = MlpGrnCommon<V, kRows, Op>;
  using Common::kBlock, Common::kVector, Common::kWords;
  using typename Common::T;
  using Hidden = HiddenGradient<V, Op>;

 public:
  MlpGrnBackwardRun(const MlpGrnBackward& p, const Parallel& parallel)
      : p_(p),
        s_(p.shape),
        parallel_(parallel),
        kb_(T::blocks(s_.hidden)),
        cb_(T::blocks(s_.c_in)),
        ob_(T::blocks(s_.c_out)),
        w_(s_),
        plan_(s_.groups, 2 * kb_ * kBlock * sizeof(float), s_.held_bytes, kRows),
        grn_(thread_scratch(ScratchSlot::kVectors, 6 * s_.hidden + 2 * s_.c_out), s_.hidden),
        db1_(grn_.beta + s_.hidden),
        db2_(db1_ + s_.hidden) {}

  void run() {
    w_.pack(p_, parallel_);
    clear();
    for (int64_t g = 0; g < s_.groups.count;) {
      const int64_t end = plan_.chunk_end(g);
      const bool held = plan_.held(g, end);
      groups_of(end - g);
      plan_.each_slice(g, end, [&](const RowChunk& chunk) {
        place(chunk);
        convert();
        hidden_and_gradient();
        add_group_sums();
      });
      factors(g, end);
      plan_.each_slice(g, end, [&](const RowChunk& chunk) {
        if (!held) {
          place(chunk);
          convert();
          hidden_and_gradient();
        }
        input_gradient();
        add_column_sums();
        MlpGrnWeightGradients<V, kRows, Op>::add(p_, {chunk_.begin, rows_, u_, dz_, dv_, Hidden::second(h_, dv_)},
                                                 added_, parallel_);
        added_ = true;
      });
      g = end;
    }
    round();
  }

 private:
  // ---- sums over all rows -----------------------------------------------------------------------------------------

  void clear() {
    for (int64_t k = 0; k < s_.hidden + s_.c_out; ++k) db1_[k] = 0;
    if (s_.groups.rows > 0) return;
    std::memset(p_.dw1, 0, s_.hidden * s_.c_in * sizeof(float));
    std::memset(p_.dw2, 0, s_.hidden * s_.c_out * sizeof(float));
  }

  // The sums in double precision, to float32.
  void round() const {
    grn_.round(p_.dgamma, p_.dbeta);
    for (int64_t k = 0; k < s_.hidden; ++k) p_.db1[k] = static_cast<float>(db1_[k]);
    for (int64_t o = 0; o < s_.c_out; ++o) p_.db2[o] = static_cast<float>(db2_[o]);
  }

  // ---- chunks -----------------------------------------------------------------------------------------------------

  int64_t width() const { return kb_ * kBlock; }

  // Per group: the sums of dv g, then of dv; afterwards the factors dn / n and s.
  void groups_of(int64_t groups) {
    sums_ = thread_scratch(ScratchSlot::kGroups, 2 * groups * width());
    std::memset(sums_, 0, 2 * groups * width() * sizeof(float));
  }

  void place(const RowChunk& chunk) {
    chunk_ = chunk;
    rows_ = chunk.rows();
    const int64_t most = plan_.max_blocks(chunk);
    const int64_t map = (most * sizeof(RowBlock) + 63) / 64 * 16;
    const int64_t block_sums = 2 * width() + ob_ * kBlock;
    const int64_t of_row = 2 * width() + (cb_ + ob_) * kWords;
    float* memory = thread_scratch(ScratchSlot::kChunk, map + of_row * rows_ + most * block_sums);
    blocks_ = reinterpret_cast<RowBlock*>(memory);
    h_ = memory + map, dv_ = h_ + width() * rows_, u_ = dv_ + width() * rows_, dz_ = u_ + cb_ * kWords * rows_;
    block_sums_ = dz_ + ob_ * kWords * rows_;
    block_db2_ = block_sums_ + most * 2 * width();
    count_ = plan_.cut(chunk, blocks_);
    by_rows_ = Common::by_rows(blocks_, count_, rows_, parallel_.threads);
  }

  // u and dz in blocked form, and dz's column sums.
  void convert() {
    parallel_(0, count_, grain(rows_ / count_ * (s_.c_in + s_.c_out) * 4), [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t first = blocks_[b].begin, rows = blocks_[b].end - first;
        Common::pack_rows(p_.u, chunk_.begin + first, rows, s_.c_in, u_ + first * kWords, rows_);
        Common::pack_rows(p_.dy, chunk_.begin + first, rows, s_.c_out, dz_ + first * kWords, rows_);
        with_dtype(p_.dy.dtype, p_.dy.data, [&](auto* dy) {
          for (int64_t o = 0; o < ob_; ++o) {
            Pack<V>::column_sums(dy + (chunk_.begin + first) * s_.c_out + o * kBlock, rows, s_.c_out,
                                 s_.c_out - o * kBlock, block_db2_ + (b * ob_ + o) * kBlock);
          }
        });
      }
    });
  }

  void hidden_and_gradient() {
    Common::split(parallel_, by_rows_, count_, kb_, rows_ * (s_.c_in + s_.c_out) * kBlock,
                  [&](int64_t b0, int64_t b1, int64_t j0, int64_t j1) {
                    Common::each_run(blocks_, b0, b1, [&](int64_t begin, int64_t end, int64_t first, int64_t rows) {
                      hidden_and_gradient(begin, end, first, rows, j0, j1);
                    });
                  });
  }

  void hidden_and_gradient(int64_t begin, int64_t end, int64_t first, int64_t rows, int64_t j0, int64_t j1) {
    const int64_t stride = rows_ * kBlock, at = j0 * stride + first * kBlock;
    const auto nothing = [](auto...) {};
    const int64_t in = w_.in, out = w_.out;
    const float *w1 = w_.w1 + j0 * in * kBlock, *w2 = w_.w2 + j0 * out * kBlock;
    if (p_.saved_hidden == nullptr) {
      Common::multiply(
          {u_ + first * kWords, rows_ * kWords, w1, in, h_ + at, stride, w_.b1 + j0 * kBlock, rows, j1 - j0}, nothing,
          [&](int64_t j, int64_t k, int64_t) { return w1 + (j * in + k) * kBlock; }, nothing);
    }
    Common::multiply(
        {dz_ + first * kWords, rows_ * kWords, w2, out, dv_ + at, stride, nullptr, rows, j1 - j0}, nothing,
        [&](int64_t j, int64_t k, int64_t) { return w2 + (j * out + k) * kBlock; },
        [&](int64_t j) {
          for (int64_t b = begin; b < end; ++b) group_sums(b, j0 + j);
        });
  }

  // A row block's sums of dv g and dv, hidden panel j.
  void group_sums(int64_t b, int64_t j) {
    const int64_t first = blocks_[b].begin, rows = blocks_[b].end - first;
    float* h = h_ + (j * rows_ + first) * kBlock;
    if (p_.saved_hidden != nullptr) {
      const float* saved = p_.saved_hidden + Common::saved_at(plan_, chunk_, blocks_[b], kb_, j);
      std::memcpy(h, saved, rows * kBlock * sizeof(float));
    }
    float* out = block_sums_ + (b * 2 * kb_ + j) * kBlock;
    Hidden::sums(h, dv_ + (j * rows_ + first) * kBlock, rows, out, out + width());
  }

  void add_group_sums() { Common::add_block_sums(blocks_, count_, block_sums_, sums_, 2 * width()); }

  // From the sums of groups [begin, end): dgamma, dbeta, and in the sums' place dn / n and s.
  void factors(int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      float* sums = sums_ + (g - begin) * 2 * width();
      GrnFactors<V>::backward(p_.norm + g * s_.hidden, w_.gamma, s_.hidden, s_.eps, sums, sums + width(), grn_);
    }
  }

  // ---- du ---------------------------------------------------------------------------------------------------------

  void input_gradient() {
    if (!by_rows_) {
      parallel_(0, kb_, grain(rows_ * kBlock * 16), [&](int64_t j0, int64_t j1) {
        for (int64_t b = 0; b < count_; ++b) hidden_gradient(b, j0, j1);
      });
    }
    Common::split(parallel_, by_rows_, count_, cb_, rows_ * s_.hidden * kBlock,
                  [&](int64_t b0, int64_t b1, int64_t c0, int64_t c1) { multiply_back(b0, b1, c0, c1); });
  }

  // dh and v in the place of dv and h, and dh's column sums in that of dv g's.
  void hidden_gradient(int64_t b, int64_t j0, int64_t j1) {
    const RowBlock& block = blocks_[b];
    for (int64_t j = j0; j < j1; ++j) {
      const int64_t at = (j * rows_ + block.begin) * kBlock;
      const float* factor = sums_ + (block.group * 2 * kb_ + j) * kBlock;
      Hidden::gradient(h_ + at, dv_ + at, block.end - block.begin, factor, factor + width(), w_.beta + j * kBlock,
                       block_sums_ + (b * 2 * kb_ + j) * kBlock);
    }
  }

  void multiply_back(int64_t b0, int64_t b1, int64_t c0, int64_t c1) {
    Common::each_run(blocks_, b0, b1, [&](int64_t begin, int64_t end, int64_t first, int64_t rows) {
      float* du = thread_scratch(ScratchSlot::kOperand, (c1 - c0) * rows * kBlock);
      const float* w1 = w_.w1_back + c0 * w_.hidden * kBlock;
      Gemm<V, kRows, typename Hidden::Rows>::multiply(
          {dv_ + first * kBlock, rows_ * kBlock, w1, w_.hidden, du, rows * kBlock, nullptr, rows, c1 - c0,
           s_.c_in - c0 * kBlock},
          [&](int64_t k, int64_t depth) {
            if (!by_rows_) return;
            for (int64_t b = begin; b < end; ++b) hidden_gradient(b, k / kWords, (k + depth + kWords - 1) / kWords);
          },
          [&](int64_t c, int64_t k, int64_t) { return w1 + (c * w_.hidden + k) * kBlock; }, [](int64_t) {});
      with_dtype(p_.u.dtype, p_.du, [&](auto* out) { write(out, du, chunk_.begin + first, rows, c0, c1); });
    });
  }

  template <class O>
  void write(O* __restrict__ out,           // [T, c_in]
             const float* __restrict__ du,  // [c1 - c0][rows][kBlock]
             int64_t first, int64_t rows, int64_t c0, int64_t c1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = c0 * kBlock; c < c1 * kBlock && c < s_.c_in; c += kVector) {
        const V value = V::load(du + (((c / kBlock) - c0) * rows + r) * kBlock + c % kBlock);
        O* to = out + (first + r) * s_.c_in + c;
        const int64_t left = s_.c_in - c;
        left >= kVector ? value.store(to) : value.store(to, static_cast<int>(left));
      }
    }
  }

  void add_column_sums() {
    for (int64_t b = 0; b < count_; ++b) {
      const float *dh = block_sums_ + b * 2 * width(), *dz = block_db2_ + b * ob_ * kBlock;
      for (int64_t k = 0; k < s_.hidden; ++k) db1_[k] += dh[k];
      for (int64_t o = 0; o < s_.c_out; ++o) db2_[o] += dz[o];
    }
  }

  const MlpGrnBackward& p_;
  const MlpGrnShape& s_;
  const Parallel& parallel_;
  int64_t kb_, cb_, ob_;  // blocks of hidden, input and output channels
  MlpGrnBackwardWeights<V, kRows, Op> w_;
  RowPlan plan_;
  GrnGradients grn_;
  double *db1_, *db2_;  // [hidden], [c_out]: sums over all blocks
  RowChunk chunk_{};
  int64_t rows_ = 0, count_ = 0;  // rows and blocks of the chunk
  RowBlock* blocks_ = nullptr;
  bool by_rows_ = false, added_ = false;
  float *h_, *dv_;     // [kb_][rows_][kBlock]
  float *u_, *dz_;     // [cb_][rows_][kWords], [ob_][rows_][kWords]
  float* block_sums_;  // [count_][2][kb_][kBlock]
  float* block_db2_;   // [count_][ob_][kBlock]
  float* sums_;        // [groups of the chunk][2][kb_][kBlock]
};

}  // namespace
}  // namespace cnv2
