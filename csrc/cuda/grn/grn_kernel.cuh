// Global response normalisation: column sums of each group, what follows from them, and the pass that applies it.
#pragma once

#include "cuda/common/groups.cuh"
#include "cuda/common/reduce.cuh"

namespace cnv2 {

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    grn_squares_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* x, float* partial) {
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float sums[1][kVector] = {};
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(x + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sums[0][i] = fmaf(v[i], v[i], sums[0][i]);
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    grn_products_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* dy, const T* x,
                        float* partial) {
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float sums[2][kVector] = {};
  walk.each([&](int64_t at) {
    float g[kVector], v[kVector];
    load_vector<kVector>(dy + at, g);
    load_vector<kVector>(x + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[0][i] = fmaf(g[i], v[i], sums[0][i]);
      sums[1][i] += g[i];
    }
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    grn_apply_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* x, const float* scale,
                     const void* beta, const DType param_dtype, T* out) {
  const GroupWalk<kVector> walk(groups, t, columns);
  float s[kVector], b[kVector];
  walk.of_group(scale, s);
  walk.params(beta, param_dtype, b);
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(x + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = fmaf(v[i], s[i], b[i]);
    store_vector<kVector>(out + at, v);
  });
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    grn_backward_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* dy, const T* x,
                        const float* scale, const float* factor, T* dx) {
  const GroupWalk<kVector> walk(groups, t, columns);
  float s[kVector], f[kVector];
  walk.of_group(scale, s);
  walk.of_group(factor, f);
  walk.each([&](int64_t at) {
    float g[kVector], v[kVector];
    load_vector<kVector>(dy + at, g);
    load_vector<kVector>(x + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = fmaf(g[i], s[i], v[i] * f[i]);
    store_vector<kVector>(dx + at, v);
  });
}

// A block per group. Shared memory: the reduction's.
__global__ void __launch_bounds__(kGroupThreads)
    grn_scale_kernel(const int columns, const float* squares, const void* gamma, const DType param_dtype,
                     const float eps, float* norm, float* scale) {
  CNV2_SHARED(shared);
  const int64_t base = int64_t{blockIdx.x} * columns;
  float total[1] = {};
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const float n = sqrtf(squares[base + c]);
    norm[base + c] = n;
    total[0] += n;
  }
  block_sum<1>(total, reinterpret_cast<float*>(shared));
  const float denominator = total[0] / static_cast<float>(columns) + eps;
  for (int c = threadIdx.x; c < columns; c += blockDim.x)
    scale[base + c] = fmaf(load_param(gamma, param_dtype, c), norm[base + c] / denominator, 1.0f);
}

__global__ void __launch_bounds__(kGroupThreads)
    grn_grad_kernel(const int columns, const float* products, const float* norm, const void* gamma,
                    const DType param_dtype, const float eps, float* scale, float* factor, float* dgamma) {
  CNV2_SHARED(shared);
  const int64_t base = int64_t{blockIdx.x} * columns;
  float total[2] = {};
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const float n = norm[base + c];
    total[0] += n;
    total[1] = fmaf(load_param(gamma, param_dtype, c) * n, products[base + c], total[1]);
  }
  block_sum<2>(total, reinterpret_cast<float*>(shared));
  const float denominator = total[0] / static_cast<float>(columns) + eps;
  const float common = total[1] / (static_cast<float>(columns) * denominator * denominator);
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const float n = norm[base + c], g = load_param(gamma, param_dtype, c), product = products[base + c];
    scale[base + c] = fmaf(g, n / denominator, 1.0f);
    factor[base + c] = n > 0.0f ? (g * product / denominator - common) / n : 0.0f;
    dgamma[base + c] = product * (n / denominator);
  }
}

}  // namespace cnv2
