#include "backward_kernel.h"
#include "forward_kernel.h"

namespace cnv2 {

using Forward = DwconvForwardKernel<Vec16, 14>;
using Backward = DwconvBackwardKernel<Vec16, 14>;
extern const DwconvCpu kDwconvAvx512 = {Forward::tiling, Forward::pack, Forward::run, Backward::tiling, Backward::run};

}  // namespace cnv2
