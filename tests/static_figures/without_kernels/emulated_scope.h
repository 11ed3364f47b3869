// The emulator's, with the framework's products counted, which are called below its dispatcher, where no profile sees
// them.
#pragma once

#include "cuda_emulation.h"

#define CNV2_PRODUCTS(name) (++cuda_emulation::launches, aoti_torch_cpu_##name)
#define product_in_float32 emulated_product_in_float32
#include_next "emulated_scope.h"
#undef product_in_float32

namespace cnv2 {

// Looked up by its name, as the framework's is.
inline Tensor product_in_float32(const Tensor& a, const Tensor& b) {
  ++cuda_emulation::launches;
  return torch::stable::new_empty(a, {a.size(0), b.size(1)}, ScalarType::Float);
}

}  // namespace cnv2
