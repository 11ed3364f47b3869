#include "kernel.h"

namespace cnv2 {

extern const PoolCpu kPoolAvx2 = {PoolKernel<Vec8>::forward};

}  // namespace cnv2
