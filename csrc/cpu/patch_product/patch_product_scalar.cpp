#include "kernel.h"

namespace cnv2 {

using Kernel = PatchProductKernel<Vec4, 6>;
extern const PatchProductCpu kPatchProductScalar = {Kernel::packed_floats, Kernel::pack, Kernel::run, Kernel::gather,
                                                    Kernel::scatter};

}  // namespace cnv2
