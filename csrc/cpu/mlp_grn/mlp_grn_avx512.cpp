#include "kernel.h"

namespace cnv2 {

using Kernel = MlpGrnKernel<Vec16, 14>;
extern const MlpGrnCpu kMlpGrnAvx512 = {Kernel::packed_floats, Kernel::pack, Kernel::forward, Kernel::backward, false};

}  // namespace cnv2
