// Planes [N, C, H, W] in channels_last: the memory of contiguous [N, H, W, C].
#pragma once

#include "tensor_utils.h"

namespace cnv2 {

// Strides of dimensions of size 1 may be any.
inline bool in_channels_last(const Tensor& t) {
  if (t.dim() != 4) return false;
  const int64_t c = t.size(1), across = t.size(3), down = t.size(2), plane = down * across;
  const auto fits = [&](int64_t d, int64_t stride) { return t.size(d) == 1 || t.stride(d) == stride; };
  return t.numel() == 0 || (fits(1, 1) && fits(3, c) && fits(2, across * c) && fits(0, plane * c));
}

inline Tensor empty_planes(const Tensor& x, int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  return empty_strided(x, {n, c, h, w}, {h * w * c, 1, w * c, c}, type);
}

}  // namespace cnv2
