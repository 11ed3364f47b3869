#include "kernel.h"

namespace cnv2 {

using Kernel = LayerNormKernel<Vec16>;
extern const LayerNormCpu kLayerNormAvx512 = {Kernel::forward, Kernel::backward};

}  // namespace cnv2
