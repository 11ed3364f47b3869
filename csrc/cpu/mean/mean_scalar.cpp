#include "kernel.h"

namespace cnv2 {

extern const MeanCpu kMeanScalar = {MeanKernel<Vec4>::forward};

}  // namespace cnv2
