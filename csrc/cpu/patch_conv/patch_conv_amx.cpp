#include "bf16.h"

namespace cnv2 {

using Kernel = PatchConvBf16Kernel<Vec16, 32, BFloat16Tiles, kPatchConvAvx512>;
extern const PatchConvCpu kPatchConvAmx = {Kernel::packed_floats,       Kernel::pack,           Kernel::run,
                                           Kernel::parameter_gradients, Kernel::input_gradient, true};

}  // namespace cnv2
