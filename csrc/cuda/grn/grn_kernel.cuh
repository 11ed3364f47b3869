// Global response normalisation: column sums of each group, what follows from them, and the pass that applies it.
// C is `columns`, G the number of groups; launchers say what each array holds (grn.h).
//
// Where a kernel both reads and writes rows, these have no __restrict__: with it the compiler moves loads ahead of
// stores, which takes up to 15 more registers (sm_100).
#pragma once

#include "cuda/common/groups.cuh"
#include "cuda/common/reduce.cuh"

namespace cnv2 {

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    grn_squares_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                       const T* __restrict__ x,      // [T, C]
                       float* __restrict__ partial)  // [splits, G, C]: sums of x^2
{
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
    grn_products_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                        const T* __restrict__ dy,     // [T, C]
                        const T* __restrict__ x,      // [T, C]
                        float* __restrict__ partial)  // [2, splits, G, C]: sums of dy x, then of dy
{
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
    grn_apply_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                     const T* x,                       // [T, C]
                     const float* __restrict__ scale,  // [G, C]
                     const void* __restrict__ beta,    // [C] beta_dtype
                     const DType beta_dtype,
                     T* y)  // [T, C]
{
  const GroupWalk<kVector> walk(groups, t, columns);
  float s[kVector], b[kVector];
  walk.of_group(scale, s);
  walk.params(beta, beta_dtype, b);
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(x + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = fmaf(v[i], s[i], b[i]);
    store_vector<kVector>(y + at, v);
  });
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    grn_backward_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                        const T* dy,                       // [T, C]
                        const T* x,                        // [T, C]
                        const float* __restrict__ scale,   // [G, C]
                        const float* __restrict__ factor,  // [G, C]
                        T* dx)                             // [T, C]
{
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

// These two run a block for each group. Their shared memory is the reduction's.
__global__ void __launch_bounds__(kGroupThreads) grn_scale_kernel(const int columns,
                                                                  const float* __restrict__ squares,  // [G, C]
                                                                  const void* __restrict__ gamma,     // [C] gamma_dtype
                                                                  const DType gamma_dtype, const float eps,
                                                                  float* __restrict__ norm,   // [G, C]
                                                                  float* __restrict__ scale)  // [G, C]
{
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
    scale[base + c] = fmaf(load_param(gamma, gamma_dtype, c), norm[base + c] / denominator, 1.0f);
}

__global__ void __launch_bounds__(kGroupThreads)
    grn_grad_kernel(const int columns,
                    const float* __restrict__ products,  // [G, C]: sums of dy x
                    const float* __restrict__ norm,      // [G, C]
                    const void* __restrict__ gamma,      // [C] gamma_dtype
                    const DType gamma_dtype, const float eps,
                    float* __restrict__ scale,   // [G, C]
                    float* __restrict__ factor,  // [G, C]
                    float* __restrict__ shares)  // [G, C]
{
  CNV2_SHARED(shared);
  const int64_t base = int64_t{blockIdx.x} * columns;
  float total[2] = {};
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const float n = norm[base + c];
    total[0] += n;
    total[1] = fmaf(load_param(gamma, gamma_dtype, c) * n, products[base + c], total[1]);
  }
  block_sum<2>(total, reinterpret_cast<float*>(shared));
  const float denominator = total[0] / static_cast<float>(columns) + eps;
  const float common = total[1] / (static_cast<float>(columns) * denominator * denominator);
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const float n = norm[base + c], g = load_param(gamma, gamma_dtype, c), product = products[base + c];
    scale[base + c] = fmaf(g, n / denominator, 1.0f);
    factor[base + c] = n > 0.0f ? (g * product / denominator - common) / n : 0.0f;
    shares[base + c] = product * (n / denominator);
  }
}

}  // namespace cnv2
