#include "backward.h"
#include "kernel.h"

namespace cnv2 {

using Kernel = PatchConvKernel<Vec8, 6>;
using Backward = PatchConvBackward<Vec8, 6>;
extern const PatchConvCpu kPatchConvAvx2 = {Kernel::packed_floats, Kernel::pack,    Kernel::run,
                                            Backward::parameters,  Backward::input, false};

}  // namespace cnv2
