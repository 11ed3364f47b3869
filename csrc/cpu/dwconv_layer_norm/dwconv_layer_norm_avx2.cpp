#include "dwconv_layer_norm_kernel.h"

namespace cnv2 {

using Kernel = DwconvLayerNormKernel<Vec8, 7>;
extern const DwconvLayerNormCpu kDwconvLayerNormAvx2 = {Kernel::tiling, Kernel::pack, Kernel::run};

}  // namespace cnv2
