#include "kernel.h"

namespace cnv2 {

using Kernel = PatchProductKernel<Vec8, 6>;
extern const PatchProductCpu kPatchProductAvx2 = {Kernel::packed_floats, Kernel::pack, Kernel::run, Kernel::gather,
                                                  Kernel::scatter};

}  // namespace cnv2
