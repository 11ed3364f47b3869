#include "bf16.h"

namespace cnv2 {

using Kernel = MlpGrnBf16Kernel<Vec16, 14, BFloat16Pairs, kMlpGrnAvx512>;
extern const MlpGrnCpu kMlpGrnAvx512Bf16 = {Kernel::packed_floats, Kernel::pack, Kernel::forward, Kernel::backward,
                                            true};

}  // namespace cnv2
