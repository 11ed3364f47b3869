#include "bf16.h"

namespace cnv2 {

using Kernel = PatchConvBf16Kernel<Vec16, 14, BFloat16Pairs, kPatchConvAvx512>;
extern const PatchConvCpu kPatchConvAvx512Bf16 = {Kernel::packed_floats,       Kernel::pack,           Kernel::run,
                                                  Kernel::parameter_gradients, Kernel::input_gradient, true};

}  // namespace cnv2
