#include "forward_launch.cuh"

namespace cnv2 {

template cudaError_t launch_forward_as<Half>(const DwconvForward&, cudaStream_t, bool*);

}  // namespace cnv2
