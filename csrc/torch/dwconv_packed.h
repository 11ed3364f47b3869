// dwconv_layer_norm on dense planes with weights packed beforehand, for the CPU operators that contain it.
#pragma once

#include <vector>

#include "cpu/common/scratch.h"
#include "cpu/dwconv/dwconv.h"
#include "kept.h"

namespace cnv2 {

// On a plane of float32 unless said otherwise; `vectors`: bias, ln_weight and ln_bias, float32 [3, C].
inline DwconvForward depthwise(int64_t n, int64_t h, int64_t w, int64_t c, const float* taps, const float* vectors) {
  DwconvForward p{};
  p.plane = {n, static_cast<int>(h), static_cast<int>(w), nullptr};
  p.c = c;
  p.taps = taps;
  p.bias = vectors, p.ln_weight = vectors + c, p.ln_bias = vectors + 2 * c;
  return p;
}

inline int64_t depthwise_packed_floats(CpuIsa isa, int64_t c) {
  const float any = 0;  // only its presence counts
  return dwconv_cpu(isa).tiling(depthwise(1, 1, 1, c, &any, &any), 1).packed_floats;
}

// kernel [C, 1, 7, 7] of any strides; the others contiguous, of C elements; each in a dtype of its own.
inline void pack_depthwise(CpuIsa isa, const Tensor& kernel, const Tensor& bias, const Tensor& ln_weight,
                           const Tensor& ln_bias, float* packed) {
  const int64_t c = kernel.size(0);
  std::vector<float> floats(static_cast<size_t>((kDwconvTaps + 3) * c));
  for (int64_t kx = 0; kx < kDwconvSide; ++kx) {
    for (int64_t ky = 0; ky < kDwconvSide; ++ky) {
      const int64_t tap = ky * kernel.stride(2) + kx * kernel.stride(3);
      for (int64_t i = 0; i < c; ++i)
        floats[static_cast<size_t>((kx * kDwconvSide + ky) * c + i)] = float_at(kernel, i * kernel.stride(0) + tap);
    }
  }
  float* vectors = floats.data() + kDwconvTaps * c;
  for (const Tensor* t : {&bias, &ln_weight, &ln_bias}) {
    for (int64_t i = 0; i < c; ++i) *vectors++ = float_at(*t, i);
  }
  const DwconvForward p = depthwise(1, 1, 1, c, floats.data(), floats.data() + kDwconvTaps * c);
  dwconv_cpu(isa).pack(p, packed, 0, dwconv_cpu(isa).tiling(p, 1).blocks);
}

inline void run_depthwise(CpuIsa isa, const void* x, DType dtype, int64_t n, int64_t h, int64_t w, int64_t c, float eps,
                          const float* packed, void* y) {
  DwconvForward p = depthwise(n, h, w, c, packed, packed);  // the kernel reads the packed ones alone
  p.x = x, p.y = y, p.eps = eps, p.dtype = dtype;
  const DwconvCpu& cpu = dwconv_cpu(isa);
  const DwconvCpuTiling t = cpu.tiling(p, torch::stable::get_num_threads());
  constexpr int64_t kMultiplyAddsPerThread = 256 * 1024;  // worth waking a thread for
  const int64_t tile_work = t.rows * t.columns * c * kDwconvTaps;
  torch::stable::parallel_for(0, t.tiles, kMultiplyAddsPerThread / tile_work + 1, [&](int64_t begin, int64_t end) {
    cpu.run(p, t, packed, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
}

}  // namespace cnv2
