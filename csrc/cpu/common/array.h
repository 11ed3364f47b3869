// A tensor's memory with its dtype, as framework-free CPU code takes it.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace cnv2 {

struct ConstArray {
  const void* data;
  DType dtype;
};

// A tensor of any strides and at most four dimensions.
struct StridedArray {
  static constexpr int kMostDims = 4;
  ConstArray array;  // data null: there is no such tensor
  int dims;
  int64_t sizes[kMostDims], strides[kMostDims];  // strides in elements
};

}  // namespace cnv2
