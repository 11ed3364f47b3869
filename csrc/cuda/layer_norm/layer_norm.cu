#include "layer_norm.h"

#include "cuda/common/dtype.cuh"
#include "layer_norm_kernel.cuh"

namespace cnv2 {
namespace {

// How many lanes share a row so that each has at most kLayerNormHeld of its vectors; 64 if a row is too wide for a
// warp.
int lanes_for(int64_t vectors) {
  int lanes = 1;
  while (lanes < 64 && int64_t{lanes} * kLayerNormHeld < vectors) lanes *= 2;
  return lanes;
}

unsigned at_most(int64_t wanted, int64_t most) { return static_cast<unsigned>(wanted < most ? wanted : most); }

constexpr int64_t kFloat = sizeof(float);

template <class T, int kVector>
cudaError_t forward(const LayerNormForward& p, const CudaDevice& device, cudaStream_t stream) {
  const int lanes = lanes_for(p.c / kVector), narrow = lanes < 32 ? lanes : 32;
  const int groups = kLayerNormThreads / narrow;
  const unsigned blocks = at_most((p.rows + groups - 1) / groups, int64_t{8} * device.processors);
  const auto kernel =
      lanes <= 32 ? layer_norm_forward_kernel<T, kVector, kLayerNormHeld> : layer_norm_forward_kernel<T, kVector, 0>;
  return launch(kernel, blocks, kLayerNormThreads, 2 * p.c * kFloat, stream, p, narrow);
}

template <class T, int kVector>
struct Backward {
  static int64_t groups(const LayerNormBackward& p) {
    const int lanes = lanes_for(p.c / kVector);
    return lanes <= 32 ? kLayerNormThreads / lanes : 1;
  }
  static int64_t blocks(const LayerNormBackward& p, const CudaDevice& device) {
    return at_most((p.rows + groups(p) - 1) / groups(p), int64_t{2} * device.processors);
  }
  static cudaError_t start(const LayerNormBackward& p, int64_t blocks, cudaStream_t stream) {
    const auto grid = static_cast<unsigned>(blocks);
    const int lanes = lanes_for(p.c / kVector);
    if (lanes <= 32) {
      const int64_t bytes = (p.c + groups(p) * 2 * p.c) * kFloat;
      return launch(layer_norm_backward_kernel<T, kVector>, grid, kLayerNormThreads, bytes, stream, p, lanes);
    }
    const int64_t bytes = (3 * p.c + 2 * kLayerNormThreads / kWarp) * kFloat;
    return launch(layer_norm_backward_wide_kernel<T, kVector>, grid, kLayerNormThreads, bytes, stream, p);
  }
};

// Calls run(Backward<T, kVector>{}, device) with 16-byte vectors where the rows are made of them, else with elements.
template <class F>
cudaError_t with_backward(const LayerNormBackward& p, F&& run) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  return with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (is_aligned16(p.c, sizeof(T), p.dy, p.x, p.dx)) return run(Backward<T, kWide<T>>{}, device);
    return run(Backward<T, 1>{}, device);
  });
}

}  // namespace

cudaError_t launch_layer_norm_forward(const LayerNormForward& p, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  return with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (is_aligned16(p.c, sizeof(T), p.x, p.y)) return forward<T, kWide<T>>(p, device, stream);
    return forward<T, 1>(p, device, stream);
  });
}

cudaError_t layer_norm_backward_blocks(const LayerNormBackward& p, int64_t* blocks) {
  return with_backward(p, [&](auto backward, const CudaDevice& device) {
    *blocks = backward.blocks(p, device);
    return cudaSuccess;
  });
}

cudaError_t launch_layer_norm_backward(const LayerNormBackward& p, int64_t blocks, cudaStream_t stream) {
  return with_backward(p, [&](auto backward, const CudaDevice&) { return backward.start(p, blocks, stream); });
}

}  // namespace cnv2
