#include "backward.h"
#include "kernel.h"

namespace cnv2 {

using Kernel = PatchConvKernel<Vec4, 6>;
using Backward = PatchConvBackward<Vec4, 6>;
extern const PatchConvCpu kPatchConvScalar = {Kernel::packed_floats, Kernel::pack,    Kernel::run,
                                              Backward::parameters,  Backward::input, false};

}  // namespace cnv2
