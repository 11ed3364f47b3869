// From a dtype that is known at run time to the storage type that a kernel is compiled for.
#pragma once

#include "common/dtype.h"
#include "cuda/common/api.h"

namespace cnv2 {

// Calls run(T{}) with the storage type T that `dtype` names.
template <class F>
cudaError_t with_dtype(DType dtype, F&& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Half{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnv2
