#include "backward_kernel.h"
#include "forward_kernel.h"

namespace cnv2 {

using Forward = DwconvForwardKernel<Vec4, 7>;
using Backward = DwconvBackwardKernel<Vec4, 7>;
extern const DwconvCpu kDwconvScalar = {Forward::tiling, Forward::pack, Forward::run, Backward::tiling, Backward::run};

}  // namespace cnv2
