// Hands a call to the code of its storage type.
#include "dwconv.h"

#include "cnv2/cuda_launch.cuh"
#include "cnv2/cuda_row_norm.cuh"

namespace cnv2 {

template <class T>
cudaError_t launch_forward_as(const DwconvForward& p, cudaStream_t stream, bool* fused);
template <class T>
cudaError_t backward_blocks_as(const DwconvBackward& p, int64_t* blocks);
template <class T>
cudaError_t launch_backward_as(const DwconvBackward& p, int64_t blocks, cudaStream_t stream);

namespace {

// LayerNorm of rows that lie in global memory, a warp each; for layers too wide to be normalised where they are made.
template <class T, int kVector>
__global__ void __launch_bounds__(256) normalise_kernel(const DwconvForward p, const int64_t rows) {
  CNV2_SHARED(shared);
  float* const params = reinterpret_cast<float*>(shared);
  const int c = static_cast<int>(p.c), lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < c; i += blockDim.x) {
    params[i] = load_param(p.ln_weight, p.param_dtype, i);
    params[c + i] = load_param(p.ln_bias, p.param_dtype, i);
  }
  __syncthreads();
  const int warps = blockDim.x / 32;
  for (int64_t row = int64_t{blockIdx.x} * warps + threadIdx.x / 32; row < rows; row += int64_t{gridDim.x} * warps) {
    normalise_row<kVector, 0>(static_cast<const T*>(p.z) + row * p.c, params, params + c,
                              static_cast<T*>(p.y) + row * p.c, static_cast<T*>(nullptr), c, p.eps, lane, 32, true);
  }
}

template <class T>
cudaError_t launch_normalise_as(const DwconvForward& p, int64_t rows, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  const int64_t bytes = 2 * p.c * int64_t{sizeof(float)}, wanted = (rows + 7) / 8, most = 8 * device.processors;
  const auto blocks = static_cast<unsigned>(wanted < most ? wanted : most);
  if (is_aligned16(p.c, sizeof(T), p.z, p.y))
    return launch(normalise_kernel<T, kWide<T>>, blocks, 256, bytes, stream, p, rows);
  return launch(normalise_kernel<T, 1>, blocks, 256, bytes, stream, p, rows);
}

}  // namespace

cudaError_t launch_dwconv_forward(const DwconvForward& p, cudaStream_t stream, bool* fused) {
  return with_dtype(p.dtype, [&](auto type) { return launch_forward_as<decltype(type)>(p, stream, fused); });
}

cudaError_t launch_dwconv_then_layer_norm(const DwconvForward& p, int64_t rows, cudaStream_t stream) {
  DwconvForward convolution = p;
  convolution.ln_weight = convolution.ln_bias = convolution.z = nullptr;
  convolution.y = p.z;
  bool fused = false;
  const cudaError_t error = launch_dwconv_forward(convolution, stream, &fused);
  if (error != cudaSuccess) return error;
  return with_dtype(p.dtype, [&](auto type) { return launch_normalise_as<decltype(type)>(p, rows, stream); });
}

cudaError_t dwconv_backward_blocks(const DwconvBackward& p, int64_t* blocks) {
  return with_dtype(p.dtype, [&](auto type) { return backward_blocks_as<decltype(type)>(p, blocks); });
}

cudaError_t launch_dwconv_backward(const DwconvBackward& p, int64_t blocks, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto type) { return launch_backward_as<decltype(type)>(p, blocks, stream); });
}

}  // namespace cnv2
