// What the block's forward and backward operators share: checks, its weights in the kernels' form, its shapes.
#pragma once

#include "cuda/dwconv/dwconv.h"
#include "cuda/mlp_grn/mlp_grn.h"
#include "cuda/weights/weights.h"
#include "dwconv_check.h"
#include "groups.h"
#include "planes.h"
#include "products_cuda.h"

namespace cnv2 {

// The parameters as the operators take them: in x's dtype or float32, contiguous; vectors of any shape. Of those that
// enter no gradient, backward has none.
struct BlockParameters {
  const Tensor& kernel;  // [C, 1, 7, 7] or [49, C]
  const std::optional<Tensor>& bias;
  const Tensor& ln_weight;
  const Tensor* ln_bias;
  const Tensor& w1;  // [K, C] or [K, C, 1, 1]
  const Tensor& b1;
  const Tensor& gamma;
  const Tensor& beta;
  const Tensor& w2;  // [C, K] or [C, K, 1, 1]
  const Tensor* b2;
};

// A vector of any shape as [n].
inline Tensor flat(const Tensor& v) { return v.dim() == 1 ? v : view_of(v, {v.numel()}, {1}); }

// Where the operators' activations lie: `planes`, [N, C, H, W] in channels_last, is what modules have; the others are
// [N, H, W, C] or [T, C], with what the caller says of them.
struct BlockPlaces {
  bool planes;
  int64_t h, w;
  const std::optional<Tensor>& map;
  int64_t rows_per_group, count;
  const std::optional<Tensor>& row_group;
  const std::optional<Tensor>& offsets;

  int64_t channels(const Tensor& x) const { return x.dim() < 2 ? 0 : x.size(planes ? 1 : x.dim() - 1); }
  int64_t height(const Tensor& x) const { return planes ? x.size(2) : h; }
  int64_t width(const Tensor& x) const { return planes ? x.size(3) : w; }

  // Whether t's rows follow each other.
  bool in_rows(const Tensor& t) const { return planes ? in_channels_last(t) : t.dim() >= 2 && t.is_contiguous(); }

  RowGroups groups(const char* op, const Tensor& x, const Tensor& rows) const {
    if (!planes) return groups_of(op, rows, rows_per_group, count, row_group, offsets);
    const int64_t plane = x.size(2) * x.size(3);
    return groups_of(op, rows, plane > 0 ? plane : 1, plane > 0 ? x.size(0) : 0, {}, {});
  }

  // Like x, in another dtype.
  Tensor like(const Tensor& x, ScalarType type) const {
    if (!planes) return empty(x, x.sizes().data(), x.dim(), type);
    return empty_planes(x, x.size(0), x.size(1), x.size(2), x.size(3), type);
  }
};

inline void check_parameters(const char* op, const Tensor& x, const BlockPlaces& places, const BlockParameters& p) {
  const int64_t c = places.channels(x);
  const auto need = [&](bool ok, const char* wants) {
    if (!ok)
      refuse(op, wants, describe("x", x), describe("kernel", p.kernel), describe("w1", p.w1), describe("w2", p.w2));
  };
  const auto fits = [&](const Tensor& t) {
    return t.is_contiguous() && t.device() == x.device() &&
           (t.scalar_type() == ScalarType::Float || t.scalar_type() == x.scalar_type());
  };
  need(places.in_rows(x) && c >= 1 && dtype_of(x).has_value(),
       "x must be contiguous, planes in channels_last, in float32, bfloat16 or float16");
  need(fits(p.kernel) && fits(p.w1) && fits(p.w2),
       "the parameters must be contiguous, in x's dtype or float32, on its device");
  const bool rows = p.kernel.dim() == 2, planes = p.kernel.dim() == 4;
  need((rows && p.kernel.size(0) == kDwconvTaps && p.kernel.size(1) == c) ||
           (planes && p.kernel.size(0) == c && p.kernel.size(1) == 1 && p.kernel.size(2) == kDwconvSide &&
            p.kernel.size(3) == kDwconvSide),
       "kernel must be [C, 1, 7, 7] or [49, C]");
  const auto matrix = [](const Tensor& t) {
    return t.dim() == 2 || (t.dim() == 4 && t.size(2) == 1 && t.size(3) == 1);
  };
  need(matrix(p.w1) && matrix(p.w2) && p.w1.size(1) == c && p.w2.size(0) == c && p.w2.size(1) == p.w1.size(0),
       "w1 must be [K, C] and w2 [C, K]");
  const auto vector = [&](const Tensor& v, int64_t size, const char* name) {
    if (!fits(v) || v.numel() != size)
      refuse(op, std::string(name) + " must be contiguous, one element a channel, in x's dtype or float32",
             describe("x", x), describe(name, v));
  };
  const int64_t k = p.w1.size(0);
  if (p.bias.has_value()) vector(*p.bias, c, "bias");
  vector(p.ln_weight, c, "ln_weight");
  if (p.ln_bias != nullptr) vector(*p.ln_bias, c, "ln_bias");
  vector(p.b1, k, "b1");
  vector(p.gamma, k, "gamma");
  vector(p.beta, k, "beta");
  if (p.b2 != nullptr) vector(*p.b2, c, "b2");
}

// The taps as float32 [49, C] and the matrices in x's dtype: parameters that are so, and copies of the others.
class BlockWeights {
 public:
  BlockWeights(const Tensor& x, const BlockParameters& p) : x_(x), p_(p), c_(p.w2.size(0)), k_(p.w1.size(0)) {
    const auto bytes = static_cast<int64_t>(x.element_size()) * c_ * k_;
    if (p.w1.scalar_type() != x.scalar_type()) w1_ = pieces_.place(bytes);
    if (p.w2.scalar_type() != x.scalar_type()) w2_ = pieces_.place(bytes);
    if (!(p.kernel.dim() == 2 && p.kernel.scalar_type() == ScalarType::Float))
      taps_ = pieces_.place_floats(kDwconvTaps * c_);
  }

  // Memory for the copies; empty where there are none.
  Tensor memory() const { return empty(x_, {pieces_.size()}, ScalarType::Byte); }

  void fill(const Tensor& memory, cudaStream_t stream) const {
    char* const to = static_cast<char*>(memory.mutable_data_ptr());
    const auto place = [&](int64_t at) -> void* { return at < 0 ? nullptr : to + at; };
    const auto floats = [](const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); };
    BlockCasts casts{};
    casts.dtype = *dtype_of(x_);
    casts.taps = {p_.kernel.const_data_ptr(), static_cast<float*>(place(taps_)), c_, p_.kernel.dim() == 2,
                  *dtype_of(p_.kernel)};
    if (w1_ >= 0) casts.matrix[0] = {floats(p_.w1), place(w1_), c_ * k_};
    if (w2_ >= 0) casts.matrix[1] = {floats(p_.w2), place(w2_), c_ * k_};
    if (pieces_.size() > 0) check_cuda(launch_block_casts(casts, stream));
  }

  Tensor taps(const Tensor& memory) const {
    return taps_ < 0 ? p_.kernel : pool_view(memory, taps_, ScalarType::Float, {kDwconvTaps, c_});
  }
  Tensor w1(const Tensor& memory) const { return matrix(memory, w1_, p_.w1, k_, c_); }
  Tensor w2(const Tensor& memory) const { return matrix(memory, w2_, p_.w2, c_, k_); }

 private:
  Tensor matrix(const Tensor& memory, int64_t at, const Tensor& own, int64_t rows, int64_t columns) const {
    if (at >= 0) return pool_view(memory, at, x_.scalar_type(), {rows, columns});
    return own.dim() == 2 ? own : rows_view(own, rows, columns);
  }

  const Tensor& x_;
  const BlockParameters& p_;
  int64_t c_, k_;
  Pieces pieces_;
  int64_t taps_ = -1, w1_ = -1, w2_ = -1;  // where the copies begin; -1: none is needed
};

// Refuses what is no factor for each run of adjacent rows; returns how many there are, 1 without factors.
inline int64_t runs_of(const char* op, const Tensor& rows, const std::optional<Tensor>& row_scale) {
  if (!row_scale.has_value()) return 1;
  const Tensor& s = *row_scale;
  const int64_t runs = s.dim() == 1 ? s.size(0) : 0;
  if (s.dim() != 1 || s.scalar_type() != ScalarType::Float || !(s.device() == rows.device()) || !s.is_contiguous() ||
      (rows.size(0) > 0 && (runs == 0 || rows.size(0) % runs != 0)))
    refuse(op, "row_scale must be contiguous float32 [R] on x's device, R dividing T", describe("rows", rows),
           describe("row_scale", row_scale));
  return runs;
}

}  // namespace cnv2
