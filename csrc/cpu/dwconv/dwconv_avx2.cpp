#include "backward_kernel.h"
#include "forward_kernel.h"

namespace cnv2 {

using Forward = DwconvForwardKernel<Vec8, 7>;
using Backward = DwconvBackwardKernel<Vec8, 7>;
extern const DwconvCpu kDwconvAvx2 = {Forward::tiling, Forward::pack, Forward::run, Backward::tiling, Backward::run};

}  // namespace cnv2
