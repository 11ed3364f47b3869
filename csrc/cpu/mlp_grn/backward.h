// The backward of mlp_grn, a template over the vector type V and the rows of a register tile.
//
// With dz the gradient of the second product, dv = dz w2, g = GELU(h), and GRN's s and dn / n of grn/factors.h:
//   dg = dv s + g dn / n;  dh = dg GELU'(h);  du = dh w1;  dw1 = dh' u;  dw2 = dz' (g s + beta)
// Chunk by chunk (plan.h), so that h and dv stay in the cache: h (computed again, unless the forward saved it), dv and
// the sums; then dh and v = g s + beta in their place, and du; then both weights' gradients, whose tiles the threads
// divide.
#pragma once

#include "common.h"

namespace cnv2 {
namespace {

template <class V, int kRows>
class MlpGrnBackwardRun : MlpGrnCommon<V, kRows> {
  using Common = MlpGrnCommon<V, kRows>;
  using Common::kBlock, Common::kVector, Common::kDepth;
  using typename Common::T;

 public:
  MlpGrnBackwardRun(const MlpGrnBackward& p, const Parallel& parallel)
      : p_(p),
        s_(p.shape),
        parallel_(parallel),
        kb_(T::blocks(s_.hidden)),
        cb_(T::blocks(s_.c_in)),
        ob_(T::blocks(s_.c_out)),
        plan_(s_.groups, 2 * kb_ * kBlock * sizeof(float), s_.held_bytes, kRows),
        grn_(thread_scratch(ScratchSlot::kVectors, 6 * s_.hidden + 2 * s_.c_out), s_.hidden),
        db1_(grn_.beta + s_.hidden),
        db2_(db1_ + s_.hidden) {}

  void run() {
    pack_weights();
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
        weight_gradients(added_);
        added_ = true;
      });
      g = end;
    }
    round();
  }

 private:
  // ---- parameters -------------------------------------------------------------------------------------------------

  void pack_weights() {
    const int64_t w1 = Common::w1_floats(s_), w2 = kb_ * s_.c_out * kBlock, w1_back = cb_ * s_.hidden * kBlock;
    float* memory = thread_scratch(ScratchSlot::kWeights, w1 + w2 + w1_back + 3 * kb_ * kBlock);
    w1_ = memory, w2_ = w1_ + w1, w1_back_ = w2_ + w2, b1_ = w1_back_ + w1_back;
    gamma_ = b1_ + kb_ * kBlock, beta_ = gamma_ + kb_ * kBlock;
    if (p_.saved_hidden == nullptr) Common::pack_transposed(p_.weights.w1, s_.hidden, s_.c_in, w1_, parallel_);
    Common::pack_panels(p_.weights.w2, s_.c_out, s_.hidden, w2_, parallel_);
    Common::pack_panels(p_.weights.w1, s_.hidden, s_.c_in, w1_back_, parallel_);
    Common::pack_vector(p_.weights.b1, s_.hidden, b1_);
    Common::pack_vector(p_.gamma, s_.hidden, gamma_);
    Common::pack_vector(p_.weights.beta, s_.hidden, beta_);
  }

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
    float* memory =
        thread_scratch(ScratchSlot::kChunk, map + (2 * kb_ + cb_ + ob_) * kBlock * rows_ + most * block_sums);
    blocks_ = reinterpret_cast<RowBlock*>(memory);
    h_ = memory + map, dv_ = h_ + width() * rows_, u_ = dv_ + width() * rows_, dz_ = u_ + cb_ * kBlock * rows_;
    block_sums_ = dz_ + ob_ * kBlock * rows_;
    block_db2_ = block_sums_ + most * 2 * width();
    count_ = plan_.cut(chunk, blocks_);
    by_rows_ = Common::by_rows(blocks_, count_, rows_, parallel_.threads);
  }

  // u and dz in blocked form, and dz's column sums.
  void convert() {
    parallel_(0, count_, grain(rows_ / count_ * (s_.c_in + s_.c_out) * 4), [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t first = blocks_[b].begin, rows = blocks_[b].end - first;
        Common::pack_rows(p_.u, chunk_.begin + first, rows, s_.c_in, u_ + first * kBlock, rows_);
        Common::pack_rows(p_.dy, chunk_.begin + first, rows, s_.c_out, dz_ + first * kBlock, rows_);
        for (int64_t o = 0; o < ob_; ++o) {
          column_sums(dz_ + (o * rows_ + first) * kBlock, rows, block_db2_ + (b * ob_ + o) * kBlock);
        }
      }
    });
  }

  static void column_sums(const float* __restrict__ x,  // [rows][kBlock]
                          int64_t rows,
                          float* __restrict__ out) {  // [kBlock]
    V sum0 = V::zero(), sum1 = V::zero();
    for (int64_t r = 0; r < rows; ++r, x += kBlock) {
      sum0 = V::add(sum0, V::load(x));
      sum1 = V::add(sum1, V::load(x + kVector));
    }
    sum0.store(out);
    sum1.store(out + kVector);
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
    const float *w1 = w1_ + j0 * s_.c_in * kBlock, *w2 = w2_ + j0 * s_.c_out * kBlock;
    if (p_.saved_hidden == nullptr) {
      Common::multiply(
          {u_ + first * kBlock, stride, w1, s_.c_in, h_ + at, stride, b1_ + j0 * kBlock, rows, j1 - j0}, nothing,
          [&](int64_t j, int64_t k, int64_t) { return w1 + (j * s_.c_in + k) * kBlock; }, nothing);
    }
    Common::multiply(
        {dz_ + first * kBlock, stride, w2, s_.c_out, dv_ + at, stride, nullptr, rows, j1 - j0}, nothing,
        [&](int64_t j, int64_t k, int64_t) { return w2 + (j * s_.c_out + k) * kBlock; },
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
    const float* dv = dv_ + (j * rows_ + first) * kBlock;
    V p0 = V::zero(), p1 = V::zero(), sum0 = V::zero(), sum1 = V::zero();
    for (int64_t r = 0; r < rows; ++r, h += kBlock, dv += kBlock) {
      const V d0 = V::load(dv), d1 = V::load(dv + kVector);
      p0 = V::fma(d0, Gelu<V>::value(V::load(h)), p0);
      p1 = V::fma(d1, Gelu<V>::value(V::load(h + kVector)), p1);
      sum0 = V::add(sum0, d0);
      sum1 = V::add(sum1, d1);
    }
    float* out = block_sums_ + (b * 2 * kb_ + j) * kBlock;
    p0.store(out);
    p1.store(out + kVector);
    sum0.store(out + width());
    sum1.store(out + width() + kVector);
  }

  void add_group_sums() { Common::add_block_sums(blocks_, count_, block_sums_, sums_, 2 * width()); }

  // From the sums of groups [begin, end): dgamma, dbeta, and in the sums' place dn / n and s.
  void factors(int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      float* sums = sums_ + (g - begin) * 2 * width();
      GrnFactors<V>::backward(p_.norm + g * s_.hidden, gamma_, s_.hidden, s_.eps, sums, sums + width(), grn_);
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

  // dh in dv's place, v in h's, and dh's column sums in those of dv g.
  void hidden_gradient(int64_t b, int64_t j0, int64_t j1) {
    const RowBlock& block = blocks_[b];
    for (int64_t j = j0; j < j1; ++j) {
      float *h = h_ + (j * rows_ + block.begin) * kBlock, *dv = dv_ + (j * rows_ + block.begin) * kBlock;
      const float *factor = sums_ + (block.group * 2 * kb_ + j) * kBlock, *scale = factor + width();
      float* out = block_sums_ + (b * 2 * kb_ + j) * kBlock;
      unroll<0, 2>([&](auto half) CNV2_LAMBDA {
        constexpr int at = half.value * kVector;
        const V f = V::load(factor + at), s = V::load(scale + at), beta = V::load(beta_ + j * kBlock + at);
        V sum = V::zero();
        for (int64_t r = 0; r < block.end - block.begin; ++r) {
          float *hr = h + r * kBlock + at, *dr = dv + r * kBlock + at;
          V slope;
          const V g = Gelu<V>::value_and_slope(V::load(hr), slope);
          const V dh = V::mul(V::fma(V::load(dr), s, V::mul(g, f)), slope);
          sum = V::add(sum, dh);
          dh.store(dr);
          V::fma(g, s, beta).store(hr);
        }
        sum.store(out + at);
      });
    }
  }

  void multiply_back(int64_t b0, int64_t b1, int64_t c0, int64_t c1) {
    Common::each_run(blocks_, b0, b1, [&](int64_t begin, int64_t end, int64_t first, int64_t rows) {
      float* du = thread_scratch(ScratchSlot::kOperand, (c1 - c0) * rows * kBlock);
      const float* w1 = w1_back_ + c0 * s_.hidden * kBlock;
      Common::multiply(
          {dv_ + first * kBlock, rows_ * kBlock, w1, s_.hidden, du, rows * kBlock, nullptr, rows, c1 - c0,
           s_.c_in - c0 * kBlock},
          [&](int64_t k, int64_t depth) {
            if (!by_rows_) return;
            for (int64_t b = begin; b < end; ++b) hidden_gradient(b, k / kBlock, T::blocks(k + depth));
          },
          [&](int64_t c, int64_t k, int64_t) { return w1 + (c * s_.hidden + k) * kBlock; }, [](int64_t) {});
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

  // ---- dw1, dw2 ---------------------------------------------------------------------------------------------------

  void weight_gradients(bool add) {
    // Two loops in one, so that narrow stages divide evenly: the hidden panels of dw1, then of dw2.
    parallel_(0, 2 * kb_, grain(rows_ * s_.c_in * kBlock), [&](int64_t begin, int64_t end) {
      each_group(begin, end < kb_ ? end : kb_, s_.c_in, [&](int64_t j, int64_t t, int64_t rows) {
        for (int64_t c = 0; c < cb_; ++c) {
          outer(dv_ + (j * rows_ + t) * kBlock, u_ + (c * rows_ + t) * kBlock, rows, s_.hidden - j * kBlock,
                s_.c_in - c * kBlock, p_.dw1 + j * kBlock * s_.c_in + c * kBlock, s_.c_in, add || t > 0);
        }
      });
      each_group(begin > kb_ ? begin - kb_ : 0, end - kb_, s_.c_out, [&](int64_t j, int64_t t, int64_t rows) {
        for (int64_t o = 0; o < ob_; ++o) {
          outer(dz_ + (o * rows_ + t) * kBlock, h_ + (j * rows_ + t) * kBlock, rows, s_.c_out - o * kBlock,
                s_.hidden - j * kBlock, p_.dw2 + o * kBlock * s_.hidden + j * kBlock, s_.hidden, add || t > 0);
        }
      });
    });
  }

  static constexpr int64_t kSlice = 128;             // rows at a time: a block of them is 16 KB
  static constexpr int64_t kGroupFloats = 96 << 10;  // of the gradient that stays in the cache from slice to slice
  static constexpr int kParts = (kBlock + kRows - 1) / kRows;
  static constexpr int kPart = (kBlock + kParts - 1) / kParts;  // columns of a block that one tile takes

  // Calls body(panel, first row, rows) for hidden panels [begin, end) and all slices of the rows: several panels before
  // the next slice, which then comes from memory once for all of them.
  template <class F>
  void each_group(int64_t begin, int64_t end, int64_t columns, const F& body) const {
    const int64_t most = kGroupFloats / (columns * kBlock) + 1;
    for (; begin < end; begin += most) {
      const int64_t last = end - begin < most ? end : begin + most;
      for (int64_t t = 0; t < rows_; t += kSlice) {
        for (int64_t j = begin; j < last; ++j) body(j, t, rows_ - t < kSlice ? rows_ - t : kSlice);
      }
    }
  }

  // c [columns of a][columns of b] (+)= a' b for one block of each.
  static void outer(const float* __restrict__ a,  // [rows][kBlock]
                    const float* __restrict__ b,  // [rows][kBlock]
                    int64_t rows, int64_t a_columns, int64_t b_columns,
                    float* __restrict__ c,  // [a_columns][c_stride]
                    int64_t c_stride, bool add) {
    const int64_t columns = a_columns < kBlock ? a_columns : kBlock;
    for (int64_t i = 0; i < columns; i += kPart) {
      T::outer(
          {a + i, b, rows, c + i * c_stride, c_stride, static_cast<int>(b_columns < kBlock ? b_columns : kBlock), add},
          static_cast<int>(columns - i < kPart ? columns - i : kPart));
    }
  }

  const MlpGrnBackward& p_;
  const MlpGrnShape& s_;
  const Parallel& parallel_;
  int64_t kb_, cb_, ob_;  // blocks of hidden, input and output channels
  RowPlan plan_;
  GrnGradients grn_;
  double *db1_, *db2_;  // [hidden], [c_out]: sums over all blocks
  RowChunk chunk_{};
  int64_t rows_ = 0, count_ = 0;  // rows and blocks of the chunk
  RowBlock* blocks_ = nullptr;
  bool by_rows_ = false, added_ = false;
  float *w1_, *w2_, *w1_back_;  // panels: w1 [c_in][hidden], w2 [c_out][hidden], w1 [hidden][c_in]
  float *b1_, *gamma_, *beta_;  // [kb_][kBlock]
  float *h_, *dv_;              // [kb_][rows_][kBlock]
  float *u_, *dz_;              // [cb_][rows_][kBlock], [ob_][rows_][kBlock]
  float* block_sums_;           // [count_][2][kb_][kBlock]
  float* block_db2_;            // [count_][ob_][kBlock]
  float* sums_;                 // [groups of the chunk][2][kb_][kBlock]
};

}  // namespace
}  // namespace cnv2
