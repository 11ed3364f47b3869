#include "kernel.h"

namespace cnv2 {

extern const PoolCpu kPoolScalar = {PoolKernel<Vec4>::forward};

}  // namespace cnv2
