#include "kernel.h"

namespace cnv2 {

using Kernel = GrnKernel<Vec8>;
extern const GrnCpu kGrnAvx2 = {Kernel::forward, Kernel::backward};

}  // namespace cnv2
