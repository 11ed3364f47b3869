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

constexpr int kGrnThreads = 1024;

// Adds up what the blocks that split a group left of its columns: calls take(column, sum) once for each column. Threads
// beside each other have neighbouring columns; where there are more threads than columns, these add up later splits.
// Shared memory: a float for each thread. All threads must call it.
template <class F>
__device__ inline void sum_splits(const float* __restrict__ partial,  // [splits, G, C]
                                  int groups, int splits, int columns, float* shared, F&& take) {
  const int rounded = (columns + kWarp - 1) / kWarp * kWarp, threads = static_cast<int>(blockDim.x);
  const int lanes = rounded < threads ? rounded : threads, slices = threads / lanes;
  const int lane = threadIdx.x % lanes, slice = threadIdx.x / lanes;
  const int64_t pitch = int64_t{groups} * columns;
  for (int first = 0; first < columns; first += lanes) {
    const int column = first + lane;
    const float* const from = partial + int64_t{blockIdx.x} * columns + column;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
      for (int split = slice; split < splits; split += slices) sum += from[split * pitch];
    }
    if (slices > 1) {
      shared[threadIdx.x] = sum;
      __syncthreads();
      for (int i = 1; i < slices && slice == 0; ++i) sum += shared[i * lanes + lane];
    }
    if (slice == 0 && column < columns) take(column, sum);
  }
}

// A row of the product with beta by a warp.
__device__ inline void shift_row(const GrnShift& p, int columns, int row) {
  const int lane = threadIdx.x % kWarp;
  float sum = 0.0f;
  for (int c = lane; c < columns; c += kWarp)
    sum = fmaf(load_param(p.matrix, p.dtype, int64_t{row} * columns + c), load_param(p.beta, p.beta_dtype, c), sum);
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0) p.out[row] = sum + load_param(p.bias, p.bias_dtype, row);
}

// These two run a block for each group. Their shared memory holds a float for each thread.
// Behind the groups' blocks are those of `shift`, each of whose warps has a row.
__global__ void __launch_bounds__(kGrnThreads)
    grn_scale_kernel(const int groups, const int splits, const int columns, const GrnScale p, const GrnShift shift) {
  CNV2_SHARED(shared);
  auto* const reduction = reinterpret_cast<float*>(shared);
  if (static_cast<int>(blockIdx.x) >= groups) {
    const int row = (static_cast<int>(blockIdx.x) - groups) * static_cast<int>(blockDim.x / kWarp) +
                    static_cast<int>(threadIdx.x / kWarp);
    if (row < shift.rows) shift_row(shift, columns, row);
    return;
  }
  const int64_t base = int64_t{blockIdx.x} * columns;
  float* const norm = p.norm + base;    // [C]
  float* const scale = p.scale + base;  // [C]
  float total[1] = {};
  sum_splits(p.partial, groups, splits, columns, reduction, [&](int c, float squares) {
    const float n = sqrtf(squares);
    norm[c] = n;
    total[0] += n;
  });
  block_sum<1>(total, reduction);
  const float denominator = total[0] / static_cast<float>(columns) + p.eps;
  for (int c = threadIdx.x; c < columns; c += blockDim.x)
    scale[c] = fmaf(load_param(p.gamma, p.gamma_dtype, c), norm[c] / denominator, 1.0f);
}

__global__ void __launch_bounds__(kGrnThreads)
    grn_grad_kernel(const int groups, const int splits, const int columns, const GrnGrad p) {
  CNV2_SHARED(shared);
  auto* const reduction = reinterpret_cast<float*>(shared);
  const int64_t base = int64_t{blockIdx.x} * columns;
  const float* __restrict__ const norm = p.norm + base;  // [C]
  float* const shares = p.shares + base;                 // [C]: first the group's sums of dy x
  float total[2] = {};
  sum_splits(p.partial, groups, splits, columns, reduction, [&](int c, float products) {
    const float n = norm[c];
    shares[c] = products;
    total[0] += n;
    total[1] = fmaf(load_param(p.gamma, p.gamma_dtype, c) * n, products, total[1]);
  });
  block_sum<2>(total, reduction);
  const float denominator = total[0] / static_cast<float>(columns) + p.eps;
  const float common = total[1] / (static_cast<float>(columns) * denominator * denominator);
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const float n = norm[c], g = load_param(p.gamma, p.gamma_dtype, c), product = shares[c];
    p.scale[base + c] = fmaf(g, n / denominator, 1.0f);
    p.factor[base + c] = n > 0.0f ? (g * product / denominator - common) / n : 0.0f;
    shares[c] = product * (n / denominator);
  }
}

}  // namespace cnv2
