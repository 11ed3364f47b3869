#include "kernel.h"

namespace cnv2 {

using Kernel = GrnKernel<Vec16>;
extern const GrnCpu kGrnAvx512 = {Kernel::forward, Kernel::backward};

}  // namespace cnv2
