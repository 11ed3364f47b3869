#include "kernel.h"

namespace cnv2 {

extern const MeanCpu kMeanAvx512 = {MeanKernel<Vec16>::forward};

}  // namespace cnv2
