// What patch_conv's forward and backward operators share: checks, its weight in the product's form, its shapes.
#pragma once

#include "cuda/layer_norm/layer_norm.h"
#include "cuda/patch_conv/patch_conv.h"
#include "cuda/weights/weights.h"
#include "planes.h"
#include "products_cuda.h"

namespace cnv2 {

// The weight and bias of a LayerNorm; backward has no bias of the norm after the convolution.
struct PatchConvNorm {
  const std::optional<Tensor>& weight;
  const Tensor* bias;

  explicit operator bool() const { return weight.has_value(); }
  const void* bias_data() const { return bias->const_data_ptr(); }
};

inline const Tensor* pointer(const std::optional<Tensor>& t) { return t.has_value() ? &*t : nullptr; }

// The operators' arguments beside parameters: `planes`, [N, C, H, W] in channels_last, is what modules have; other
// activations are contiguous rows, with sizes as src/convnextv2_fast/ops/_patch_conv/gather.py says.
struct PatchConvPlaces {
  bool planes;
  const std::optional<Tensor>& table;
  int64_t rows, height, width, k;

  bool maps(const Tensor& x) const { return x.dim() == 4 && !table.has_value(); }  // whether the result has a plane
  bool covers() const {  // whether every row of x belongs to a row of the result
    return table.has_value() ? table->dim() == 2 : height % k == 0 && width % k == 0;
  }
  int64_t channels(const Tensor& x) const { return x.size(planes ? 1 : x.dim() - 1); }
  bool in_rows(const Tensor& t, bool planes_of_it) const {
    return planes_of_it ? in_channels_last(t) : t.is_contiguous();
  }

  // The result's shape in memory.
  Tensor result(const Tensor& x, int64_t c) const {
    const ScalarType type = x.scalar_type();
    if (!maps(x)) return empty(x, {rows, c}, type);
    const int64_t n = x.size(0), h = height / k, w = width / k;
    return planes ? empty_planes(x, n, c, h, w, type) : empty(x, {n, h, w, c}, type);
  }
  Tensor like(const Tensor& x) const {
    if (!planes) return empty(x, x.sizes().data(), x.dim(), x.scalar_type());
    return empty_planes(x, x.size(0), x.size(1), x.size(2), x.size(3), x.scalar_type());
  }
};

// The weight as the operators take it, [Cout, Cin, k, k], contiguous or in channels_last, or [k * k, Cin, Cout]: its
// matrix of the product with blocks [T', k * k * Cin] is [Cout, k * k * Cin], transposed, or [k * k * Cin, Cout]. It is
// the parameter itself, where that is so in memory, or a copy, beside which a bias in another dtype has one.
class PatchConvWeights {
 public:
  PatchConvWeights(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t k, Pieces* pieces)
      : x_(x), weight_(weight), bias_(bias), by_taps_(weight.dim() == 3), k_(k), c_in_(weight.size(1)) {
    c_out_ = weight.size(by_taps_ ? 2 : 0);
    in_form_ = k_ == 1 || (!by_taps_ && in_channels_last(weight));
    const auto size = static_cast<int64_t>(x.element_size());
    if (!in_form_ || weight.scalar_type() != x.scalar_type()) matrix_ = pieces->place(size * c_out_ * depth());
    if (bias.has_value() && bias->scalar_type() != x.scalar_type()) vector_ = pieces->place(size * c_out_);
  }

  int64_t c_in() const { return c_in_; }
  int64_t c_out() const { return c_out_; }
  int64_t depth() const { return k_ * k_ * c_in_; }

  // Makes the copies, in one launch.
  void fill(const Tensor& memory, cudaStream_t stream) const {
    if (matrix_ < 0 && vector_ < 0) return;
    char* const to = static_cast<char*>(memory.mutable_data_ptr());
    PatchWeight p = form(*dtype_of(weight_), *dtype_of(x_), false);
    p.from = weight_.const_data_ptr();
    p.to = matrix_ < 0 ? nullptr : to + matrix_;
    p.vector = vector_ < 0 ? nullptr : static_cast<const float*>(bias_->const_data_ptr());
    p.vector_to = vector_ < 0 ? nullptr : to + vector_;
    p.count = c_out_;
    p.vector_dtype = p.to_dtype;
    check_cuda(launch_patch_weight(p, stream));
  }

  // [k * k * Cin, Cout], and its transpose.
  Tensor matrix(const Tensor& memory) const { return by_taps_ ? stored(memory) : transposed(stored(memory)); }
  Tensor transpose(const Tensor& memory) const { return by_taps_ ? transposed(stored(memory)) : stored(memory); }
  Tensor bias(const Tensor& memory) const {
    return vector_ < 0 ? *bias_ : pool_view(memory, vector_, x_.scalar_type(), {c_out_});
  }

  // The gradient in the parameter's own form and strides, from blocks and dz.
  Tensor gradient(const Tensor& blocks, const Tensor& dz, ScalarType type, cudaStream_t stream) const {
    const Tensor made = by_taps_ ? product_as(type, transposed(blocks), dz) : product_as(type, transposed(dz), blocks);
    const int64_t ndim = weight_.dim();
    if (in_form_) return view_of(made, weight_.sizes().data(), weight_.strides().data(), ndim);
    Tensor out = empty_strided(x_, weight_.sizes().data(), weight_.strides().data(), ndim, type);
    PatchWeight p = form(*dtype_of(made), *dtype_of(made), true);
    p.from = made.const_data_ptr();
    p.to = out.mutable_data_ptr();
    check_cuda(launch_patch_weight(p, stream));
    return out;
  }

 private:
  Tensor stored(const Tensor& memory) const {
    const int64_t rows = by_taps_ ? depth() : c_out_, columns = by_taps_ ? c_out_ : depth();
    if (matrix_ < 0) return rows_view(weight_, rows, columns);
    return pool_view(memory, matrix_, x_.scalar_type(), {rows, columns});
  }

  // A weight that is in the product's form already is only cast: as if it had one tap.
  PatchWeight form(DType from, DType to, bool back) const {
    PatchWeight p{};
    p.c_out = c_out_;
    p.c_in = in_form_ ? depth() : c_in_;
    p.k = in_form_ ? 1 : static_cast<int>(k_);
    p.by_taps = by_taps_;
    p.back = back;
    p.from_dtype = from;
    p.to_dtype = to;
    return p;
  }

  const Tensor& x_;
  const Tensor& weight_;
  const std::optional<Tensor>& bias_;
  bool by_taps_, in_form_ = false;
  int64_t k_, c_in_, c_out_ = 0;
  int64_t matrix_ = -1, vector_ = -1;  // where the copies begin; -1: none is needed
};

// Refuses what the kernels cannot run; returns where the blocks lie.
PatchBlocks check_patch_conv(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const PatchConvNorm& before, const PatchConvNorm& after, const PatchConvPlaces& places);

// Gathers the blocks of x, normalised on the way if there is a norm, into `out` [T', k * k * Cin].
void gather_blocks(const Tensor& x, const PatchConvNorm& before, double eps, const PatchBlocks& blocks, int64_t c_in,
                   void* out, cudaStream_t stream);

}  // namespace cnv2
