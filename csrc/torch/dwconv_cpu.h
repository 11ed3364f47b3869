// dwconv_layer_norm on dense planes with weights packed beforehand, for the CPU operators that contain it.
#pragma once

#include <vector>

#include "cpu/dwconv_layer_norm/dwconv_layer_norm.h"
#include "cpu/scratch.h"
#include "kept.h"

namespace cnv2 {

inline int64_t depthwise_packed_floats(CpuIsa isa, int64_t c) {
  DwconvLayerNormParams p{};
  p.n = p.h = p.w = 1, p.c = c;
  return dwconv_layer_norm_cpu(isa).tiling(p, 1).packed_floats;
}

// kernel [C, 1, 7, 7] of any strides; the others contiguous, of C elements; each in a dtype of its own.
inline void pack_depthwise(CpuIsa isa, const Tensor& kernel, const Tensor& bias, const Tensor& ln_weight,
                           const Tensor& ln_bias, float* packed) {
  const int64_t c = kernel.size(0);
  std::vector<float> floats(static_cast<size_t>((kTaps + 3) * c));
  for (int64_t kx = 0; kx < kTaps1d; ++kx) {
    for (int64_t ky = 0; ky < kTaps1d; ++ky) {
      const int64_t tap = ky * kernel.stride(2) + kx * kernel.stride(3);
      for (int64_t i = 0; i < c; ++i)
        floats[static_cast<size_t>((kx * kTaps1d + ky) * c + i)] = float_at(kernel, i * kernel.stride(0) + tap);
    }
  }
  float* vectors = floats.data() + kTaps * c;
  for (const Tensor* t : {&bias, &ln_weight, &ln_bias}) {
    for (int64_t i = 0; i < c; ++i) *vectors++ = float_at(*t, i);
  }
  DwconvLayerNormParams p{};
  p.n = p.h = p.w = 1, p.c = c;
  p.kernel = floats.data();
  p.bias = floats.data() + kTaps * c, p.ln_weight = floats.data() + (kTaps + 1) * c;
  p.ln_bias = floats.data() + (kTaps + 2) * c;
  p.param_dtype = DType::kFloat32;
  const DwconvLayerNormCpu& cpu = dwconv_layer_norm_cpu(isa);
  cpu.pack(p, packed, 0, cpu.tiling(p, 1).blocks);
}

inline void run_depthwise(CpuIsa isa, const void* x, DType dtype, int64_t n, int64_t h, int64_t w, int64_t c,
                          float eps, const float* packed, void* y) {
  DwconvLayerNormParams p{};
  p.n = n, p.h = h, p.w = w, p.c = c;
  p.x = x, p.y = y, p.eps = eps, p.dtype = dtype;
  const DwconvLayerNormCpu& cpu = dwconv_layer_norm_cpu(isa);
  const DwconvLayerNormTiling t = cpu.tiling(p, torch::stable::get_num_threads());
  constexpr int64_t kMultiplyAddsPerThread = 256 * 1024;  // worth waking a thread for
  const int64_t tile_work = t.rows * t.columns * c * kTaps;
  torch::stable::parallel_for(0, t.tiles, kMultiplyAddsPerThread / tile_work + 1, [&](int64_t begin, int64_t end) {
    cpu.run(p, t, packed, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
}

}  // namespace cnv2
