// A tensor's memory with its dtype, as framework-free CPU code takes it.
#pragma once

#include "common/dtype.h"

namespace cnv2 {

struct ConstArray {
  const void* data;
  DType dtype;
};

}  // namespace cnv2
