#include "backward_launch.cuh"

namespace cnv2 {

template cudaError_t backward_blocks_as<BFloat16>(const DwconvBackward&, int64_t*);
template cudaError_t launch_backward_as<BFloat16>(const DwconvBackward&, int64_t, cudaStream_t);

}  // namespace cnv2
