#include "dwconv_layer_norm.h"

#include "dwconv_layer_norm_kernel.cuh"

namespace cnv2 {
namespace {

// What every GPU from sm_80 on has for one block.
constexpr size_t kMaxSharedBytes = 99 * 1024;

template <class T, class P, int kStrip, bool kStaged>
cudaError_t launch_strips(const DwconvLayerNormParams& p, cudaStream_t stream) {
  const int64_t bytes = dwconv_layer_norm_shared_floats<kStrip, kStaged>(p.c) * int64_t{sizeof(float)};
  const int64_t strips = p.n * p.h * ((p.w + kStrip - 1) / kStrip);
  constexpr int64_t kMaxBlocks = 0x7fffffff;
  const auto blocks = static_cast<unsigned>(strips < kMaxBlocks ? strips : kMaxBlocks);
  return launch(dwconv_layer_norm_kernel<T, P, kStrip, kStaged>, blocks, kDwconvLayerNormThreads, bytes, stream, p,
                strips);
}

template <class T, class P>
cudaError_t launch_for_width(const DwconvLayerNormParams& p, cudaStream_t stream) {
  constexpr int kStrip = 7;  // the widths 56, 28, 14 and 7 of the four stages are multiples
  const auto bytes = static_cast<size_t>(dwconv_layer_norm_shared_floats<kStrip, true>(p.c)) * sizeof(float);
  return bytes <= kMaxSharedBytes ? launch_strips<T, P, kStrip, true>(p, stream) : launch_strips<T, P, 1, false>(p, stream);
}

template <class T>
cudaError_t launch_for_params(const DwconvLayerNormParams& p, cudaStream_t stream) {
  return p.param_dtype == p.dtype ? launch_for_width<T, T>(p, stream) : launch_for_width<T, float>(p, stream);
}

}  // namespace

cudaError_t launch_dwconv_layer_norm(const DwconvLayerNormParams& p, cudaStream_t stream) {
  switch (p.dtype) {
    case DType::kFloat32:
      return launch_for_width<float, float>(p, stream);
    case DType::kBFloat16:
      return launch_for_params<BFloat16>(p, stream);
    case DType::kFloat16:
      return launch_for_params<Half>(p, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnv2
