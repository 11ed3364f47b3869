#include "kernel.h"

namespace cnv2 {

using Kernel = PatchProductKernel<Vec16, 14>;
extern const PatchProductCpu kPatchProductAvx512 = {Kernel::packed_floats, Kernel::pack, Kernel::run, Kernel::gather,
                                                    Kernel::scatter};

}  // namespace cnv2
