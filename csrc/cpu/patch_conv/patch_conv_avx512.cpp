#include "backward.h"
#include "kernel.h"

namespace cnv2 {

using Kernel = PatchConvKernel<Vec16, 14>;
using Backward = PatchConvBackward<Vec16, 14>;
extern const PatchConvCpu kPatchConvAvx512 = {Kernel::packed_floats, Kernel::pack,    Kernel::run,
                                              Backward::parameters,  Backward::input, false};

}  // namespace cnv2
