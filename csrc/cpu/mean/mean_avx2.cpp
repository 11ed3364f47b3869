#include "kernel.h"

namespace cnv2 {

extern const MeanCpu kMeanAvx2 = {MeanKernel<Vec8>::forward};

}  // namespace cnv2
