#include "dwconv_layer_norm_kernel.h"

namespace cnv2 {

using Kernel = DwconvLayerNormKernel<Vec4, 7>;
extern const DwconvLayerNormCpu kDwconvLayerNormScalar = {Kernel::tiling, Kernel::pack, Kernel::run};

}  // namespace cnv2
