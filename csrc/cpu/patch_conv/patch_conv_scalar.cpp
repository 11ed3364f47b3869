#include "kernel.h"

namespace cnv2 {

using Kernel = PatchConvKernel<Vec4, 6>;
extern const PatchConvCpu kPatchConvScalar = {Kernel::packed_floats, Kernel::pack, Kernel::run, Kernel::gather,
                                              Kernel::scatter};

}  // namespace cnv2
