// The emulator's, with the framework's products counted, which are called below its dispatcher, where no profile sees
// them.
#pragma once

#include "cuda_emulation.h"

#define CNV2_PRODUCTS(name) (++cuda_emulation::launches, static_figures_##name)
#define static_figures_mm_out aoti_torch_cpu_mm_out
#define static_figures_bmm_out aoti_torch_cpu_bmm_out
#define product_in_float32 emulated_product_in_float32
#include_next "emulated_scope.h"
#undef product_in_float32

namespace cnv2 {

// GPUs add the vector in the product's kernel; the CPU copies it first, which would count.
inline AOTITorchError static_figures_addmm_out(AtenTensorHandle out, AtenTensorHandle, AtenTensorHandle a,
                                               AtenTensorHandle b, double, double) {
  return aoti_torch_cpu_mm_out(out, a, b);
}

// Looked up by its name, as the framework's is.
inline Tensor product_in_float32(const Tensor& a, const Tensor& b) {
  ++cuda_emulation::launches;
  return torch::stable::new_empty(a, {a.size(0), b.size(1)}, ScalarType::Float);
}

}  // namespace cnv2
