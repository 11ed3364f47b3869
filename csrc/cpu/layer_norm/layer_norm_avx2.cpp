#include "kernel.h"

namespace cnv2 {

using Kernel = LayerNormKernel<Vec8>;
extern const LayerNormCpu kLayerNormAvx2 = {Kernel::forward, Kernel::backward};

}  // namespace cnv2
