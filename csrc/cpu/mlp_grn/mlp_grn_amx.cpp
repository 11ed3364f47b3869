#include "bf16.h"

namespace cnv2 {

using Kernel = MlpGrnBf16Kernel<Vec16, 32, BFloat16Tiles, kMlpGrnAvx512>;
extern const MlpGrnCpu kMlpGrnAmx = {Kernel::packed_floats, Kernel::pack, Kernel::forward, Kernel::backward, true};

}  // namespace cnv2
