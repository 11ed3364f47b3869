// The CPU implementations of the operators whose schemas convnextv2_fast/ops/*/native.py defines.
#include "dwconv_layer_norm_cpu.h"

STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CPU, m) {
  m.impl("dwconv_layer_norm_fwd", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd<cnv2::run_dwconv_layer_norm_cpu>));
  m.impl("dwconv_layer_norm_fwd_train", TORCH_BOX(&cnv2::dwconv_layer_norm_fwd_train<cnv2::run_dwconv_layer_norm_cpu>));
}
