#include "kernel.h"

namespace cnv2 {

using Kernel = MlpGrnKernel<Vec8, 6>;
extern const MlpGrnCpu kMlpGrnAvx2 = {Kernel::packed_floats, Kernel::pack, Kernel::forward, Kernel::backward, false};

}  // namespace cnv2
