#include "kernel.h"

namespace cnv2 {

using Kernel = LayerNormKernel<Vec4>;
extern const LayerNormCpu kLayerNormScalar = {Kernel::forward, Kernel::backward};

}  // namespace cnv2
