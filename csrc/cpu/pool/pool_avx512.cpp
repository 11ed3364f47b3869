#include "kernel.h"

namespace cnv2 {

extern const PoolCpu kPoolAvx512 = {PoolKernel<Vec16>::forward};

}  // namespace cnv2
