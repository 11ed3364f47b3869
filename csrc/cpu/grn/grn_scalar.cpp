#include "kernel.h"

namespace cnv2 {

using Kernel = GrnKernel<Vec4>;
extern const GrnCpu kGrnScalar = {Kernel::forward, Kernel::backward};

}  // namespace cnv2
