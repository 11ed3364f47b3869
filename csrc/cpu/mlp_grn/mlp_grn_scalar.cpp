#include "kernel.h"

namespace cnv2 {

using Kernel = MlpGrnKernel<Vec4, 6>;
extern const MlpGrnCpu kMlpGrnScalar = {Kernel::packed_floats, Kernel::pack, Kernel::forward, Kernel::backward, false};

}  // namespace cnv2
