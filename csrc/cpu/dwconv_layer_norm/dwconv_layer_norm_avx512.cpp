#include "dwconv_layer_norm_kernel.h"

namespace cnv2 {

using Kernel = DwconvLayerNormKernel<Vec16, 14>;
extern const DwconvLayerNormCpu kDwconvLayerNormAvx512 = {Kernel::tiling, Kernel::pack, Kernel::run};

}  // namespace cnv2
