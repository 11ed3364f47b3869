// The forward of mlp_grn, a template over the vector type V, the rows of a register tile, and the products' operands.
//
// Chunk by chunk (plan.h): GELU(u w1' + b1) into a blocked buffer that stays in the cache, with the sums of squares of
// each row block; GRN's scale from them; the second product. The scale goes to w2 on its way into the cache where a
// group has more rows than w2, else to the hidden activations.
#pragma once

#include "common.h"

namespace cnv2 {
namespace {

template <class V, int kRows, class Op = PlainFloats<V>>
class MlpGrnForwardRun : MlpGrnCommon<V, kRows, Op> {
  using Common = MlpGrnCommon<V, kRows, Op>;
  using Common::kBlock, Common::kVector, Common::kWords, Common::kDepth;
  using typename Common::T;
  using Activation = GeluFor<V, (Op::kNumbers > 1)>;

 public:
  MlpGrnForwardRun(const MlpGrnForward& p, const Parallel& parallel)
      : p_(p),
        s_(p.shape),
        parallel_(parallel),
        kb_(T::blocks(s_.hidden)),
        cb_(T::blocks(s_.c_in)),
        ob_(T::blocks(s_.c_out)),
        packed_(Common::unpack(s_, p.packed)),
        plan_(s_.groups, kb_ * kWords * sizeof(float), s_.held_bytes, kRows) {}

  void run() {
    const RowGroups& groups = s_.groups;
    if (p_.saved_hidden != nullptr) {
      const int64_t used = groups.rows * kb_ * kBlock, all = groups.rows * saved_columns(s_.hidden);
      std::memset(p_.saved_hidden + used, 0, (all - used) * sizeof(float));
    }
    for (int64_t g = 0; g < groups.count;) {
      const int64_t end = plan_.chunk_end(g);
      const bool held = plan_.held(g, end);
      sums_of(end - g);
      plan_.each_slice(g, end, [&](const RowChunk& chunk) {
        place(chunk);
        first_product();
        add_block_sums();
      });
      scales(g, end);
      plan_.each_slice(g, end, [&](const RowChunk& chunk) {
        if (!held) {
          place(chunk);
          first_product();
        }
        second_product();
      });
      g = end;
    }
  }

 private:
  // The sums of squares of groups, and their scales.
  void sums_of(int64_t groups) {
    sums_ = thread_scratch(ScratchSlot::kGroups, 2 * groups * kb_ * kBlock);
    scale_ = sums_ + groups * kb_ * kBlock;
    std::memset(sums_, 0, groups * kb_ * kBlock * sizeof(float));
  }

  void place(const RowChunk& chunk) {
    chunk_ = chunk;
    rows_ = chunk.rows();
    const int64_t most = plan_.max_blocks(chunk);
    const int64_t map = (most * sizeof(RowBlock) + 63) / 64 * 16;
    float* memory = thread_scratch(ScratchSlot::kChunk, map + (kb_ + cb_) * kWords * rows_ + kb_ * kBlock * most);
    blocks_ = reinterpret_cast<RowBlock*>(memory);
    hidden_ = memory + map;
    u_ = hidden_ + kb_ * kWords * rows_;
    block_sums_ = u_ + cb_ * kWords * rows_;
    count_ = plan_.cut(chunk, blocks_);
    by_rows_ = Common::by_rows(blocks_, count_, rows_, parallel_.threads);
  }

  void first_product() {
    if (!by_rows_) {  // every range needs all rows of u: they are packed once
      parallel_(0, count_, grain(rows_ / count_ * s_.c_in * 4), [&](int64_t b0, int64_t b1) {
        const int64_t first = blocks_[b0].begin, rows = blocks_[b1 - 1].end - first;
        Common::pack_rows(p_.u, chunk_.begin + first, rows, s_.c_in, u_ + first * kWords, rows_);
      });
    }
    Common::split(parallel_, by_rows_, count_, kb_, rows_ * s_.c_in * kBlock,
                  [&](int64_t b0, int64_t b1, int64_t j0, int64_t j1) { activate(b0, b1, j0, j1); });
  }

  // Hidden panels [j0, j1) of row blocks [b0, b1).
  void activate(int64_t b0, int64_t b1, int64_t j0, int64_t j1) {
    Common::each_run(blocks_, b0, b1, [&](int64_t begin, int64_t end, int64_t first, int64_t rows) {
      const int64_t depth = T::words(s_.c_in), packed = by_rows_ ? cb_ * kWords * rows : 0;
      // Floats become their GELU in place. Else the product is wider than what is kept of it: one panel's, or, where
      // the reduction takes several slices, a few panels'.
      constexpr bool kInPlace = Op::kNumbers == 1;
      const bool few = !kInPlace && depth > kDepth;
      const int64_t stride = kInPlace ? rows_ * kBlock : few ? rows * kBlock : 0;
      const int64_t most = few ? kPanels : j1 - j0, buffer = kInPlace ? 0 : (few ? kPanels : 1) * rows * kBlock;
      float* memory = thread_scratch(ScratchSlot::kOperand, packed + buffer);
      if (by_rows_) Common::pack_rows(p_.u, chunk_.begin + first, rows, s_.c_in, memory, rows);
      const float* u = by_rows_ ? memory : u_ + first * kWords;
      const int64_t u_stride = (by_rows_ ? rows : rows_) * kWords;
      for (int64_t at = j0; at < j1; at += most) {
        const float* w1 = packed_.w1 + at * depth * kBlock;
        float* h = kInPlace ? hidden_ + (at * rows_ + first) * kBlock : memory + packed;
        Common::multiply(
            {u, u_stride, w1, depth, h, stride, packed_.b1 + at * kBlock, rows, j1 - at < most ? j1 - at : most},
            [](int64_t, int64_t) {}, [&](int64_t j, int64_t k, int64_t) { return w1 + (j * depth + k) * kBlock; },
            [&](int64_t j) {
              for (int64_t b = begin; b < end; ++b)
                gelu(h + j * stride + (blocks_[b].begin - first) * kBlock, b, at + j);
            });
      }
    });
  }

  static constexpr int64_t kPanels = 4;

  // A row block's part of hidden panel j, and its sums of squares. h [rows of the block][kBlock] may be in the place of
  // the result.
  void gelu(const float* h, int64_t b, int64_t j) {
    const RowBlock& block = blocks_[b];
    float *to = hidden_ + (j * rows_ + block.begin) * kWords, *squares = block_sums_ + (b * kb_ + j) * kBlock;
    if (p_.saved_hidden != nullptr) {
      std::memcpy(p_.saved_hidden + Common::saved_at(plan_, chunk_, block, kb_, j), h,
                  (block.end - block.begin) * kBlock * sizeof(float));
    }
    V sum0 = V::zero(), sum1 = V::zero();
    for (int64_t r = block.begin; r < block.end; ++r, h += kBlock, to += kWords) {
      const V g0 = Activation::value(V::load(h)), g1 = Activation::value(V::load(h + kVector));
      sum0 = V::fma(g0, g0, sum0);
      sum1 = V::fma(g1, g1, sum1);
      Op::store(g0, g1, to);
    }
    sum0.store(squares);
    sum1.store(squares + kVector);
  }

  void add_block_sums() { Common::add_block_sums(blocks_, count_, block_sums_, sums_, kb_ * kBlock); }

  // GRN's scales from the sums of squares, in whose place come the norms.
  void scales(int64_t begin, int64_t end) {
    const int64_t width = kb_ * kBlock;
    float* gamma = thread_scratch(ScratchSlot::kVectors, width);
    Common::pack_vector(p_.gamma, s_.hidden, gamma);
    for (int64_t g = begin; g < end; ++g) {
      float *sums = sums_ + (g - begin) * width, *scale = scale_ + (g - begin) * width;
      GrnFactors<V>::forward(sums, gamma, width, s_.hidden, s_.eps, scale);
      if (p_.norm != nullptr) std::memcpy(p_.norm + g * s_.hidden, sums, s_.hidden * sizeof(float));
    }
  }

  void second_product() {
    // A group of many rows: w2's panels are scaled, by each thread for itself. Such groups are always alone in their
    // chunk, so that a sample's result does not depend on the others of its batch.
    fold_ = chunk_.groups() == 1 && rows_ > kMlpGrnChunkRows / 2 && rows_ >= 2 * s_.c_out;
    if (!by_rows_ && !fold_) {
      parallel_(0, kb_, grain(rows_ * kBlock * 4), [&](int64_t j0, int64_t j1) {
        for (int64_t b = 0; b < count_; ++b) scale_hidden(blocks_[b], j0, j1);
      });
    }
    Common::split(parallel_, by_rows_, count_, ob_, rows_ * s_.hidden * kBlock,
                  [&](int64_t b0, int64_t b1, int64_t o0, int64_t o1) { finish(b0, b1, o0, o1); });
  }

  void scale_hidden(const RowBlock& block, int64_t j0, int64_t j1) {
    for (int64_t j = j0; j < j1; ++j) {
      const float* scale = scale_ + (block.group * kb_ + j) * kBlock;
      const V s0 = V::load(scale), s1 = V::load(scale + kVector);
      const V b0 = V::load(packed_.beta + j * kBlock), b1 = V::load(packed_.beta + j * kBlock + kVector);
      float* h = hidden_ + (j * rows_ + block.begin) * kWords;
      for (int64_t r = block.begin; r < block.end; ++r, h += kWords) {
        V g0, g1;
        Op::load(h, g0, g1);
        Op::store(V::fma(g0, s0, b0), V::fma(g1, s1, b1), h);
      }
    }
  }

  // Output panels [o0, o1) of row blocks [b0, b1).
  void finish(int64_t b0, int64_t b1, int64_t o0, int64_t o1) {
    Common::each_run(blocks_, b0, b1, [&](int64_t begin, int64_t end, int64_t first, int64_t rows) {
      float* folded = thread_scratch(ScratchSlot::kOperand, ((o1 - o0) * rows + kDepth) * kBlock);
      float* y = folded + kDepth * kBlock;
      const int64_t hidden = T::words(s_.hidden);
      const float* w2 = packed_.w2 + o0 * hidden * kBlock;
      Common::multiply(
          {hidden_ + first * kWords, rows_ * kWords, w2, hidden, y, rows * kBlock,
           (fold_ ? packed_.b2_beta : packed_.b2) + o0 * kBlock, rows, o1 - o0, s_.c_out - o0 * kBlock},
          [&](int64_t k, int64_t depth) {
            if (!by_rows_ || fold_) return;
            for (int64_t b = begin; b < end; ++b)
              scale_hidden(blocks_[b], k / kWords, (k + depth + kWords - 1) / kWords);
          },
          [&](int64_t o, int64_t k, int64_t depth) {
            const float* slice = w2 + (o * hidden + k) * kBlock;
            return fold_ ? fold(slice, scale_ + k * Op::kNumbers, depth, folded) : slice;
          },
          [](int64_t) {});
      with_dtype(p_.y_dtype, p_.y, [&](auto* out) { write(out, y, chunk_.begin + first, rows, o0, o1); });
    });
  }

  // The slice of a panel times the scales of its rows.
  static const float* fold(const float* __restrict__ w2,     // [depth][kBlock]
                           const float* __restrict__ scale,  // [depth * kNumbers]
                           int64_t depth,
                           float* __restrict__ out) {  // [depth][kBlock]
    for (int64_t i = 0; i < depth; ++i) Op::scale(w2 + i * kBlock, scale + i * Op::kNumbers, out + i * kBlock);
    return out;
  }

  template <class O>
  void write(O* __restrict__ out,          // [T, c_out]
             const float* __restrict__ y,  // [o1 - o0][rows][kBlock]
             int64_t first, int64_t rows, int64_t o0, int64_t o1) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = first + r;
      const V factor = V::set(p_.row_scale == nullptr ? 1.f : p_.row_scale[row / p_.scale_rows]);
      for (int64_t c = o0 * kBlock; c < o1 * kBlock && c < s_.c_out; c += kVector) {
        const float* from = y + (((c / kBlock) - o0) * rows + r) * kBlock + c % kBlock;
        const int64_t at = row * s_.c_out + c, left = s_.c_out - c;
        O* to = out + at;
        const V start =
            p_.residual == nullptr ? V::zero() : Pack<V>::load(static_cast<const O*>(p_.residual) + at, left);
        const V value = V::fma(V::load(from), factor, start);
        left >= kVector ? value.store(to) : value.store(to, static_cast<int>(left));
      }
    }
  }

  const MlpGrnForward& p_;
  const MlpGrnShape& s_;
  const Parallel& parallel_;
  int64_t kb_, cb_, ob_;  // blocks of hidden, input and output channels
  typename Common::Packed packed_;
  RowPlan plan_;
  RowChunk chunk_{};
  int64_t rows_ = 0, count_ = 0;  // rows and blocks of the chunk
  RowBlock* blocks_ = nullptr;
  bool by_rows_ = false, fold_ = false;
  float* hidden_ = nullptr;      // [kb_][rows_][kWords]
  float* u_ = nullptr;           // [cb_][rows_][kWords], where threads divide columns
  float* block_sums_ = nullptr;  // [count_][kb_][kBlock]
  float* sums_ = nullptr;        // [groups of the chunk][kb_][kBlock]
  float* scale_ = nullptr;       // [groups of the chunk][kb_][kBlock]
};

}  // namespace
}  // namespace cnv2
