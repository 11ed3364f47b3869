// What surrounds mlp_grn's matrix products: bias, GELU and the groups' sums on the way in, scale on the way out, and
// their gradients. The activations are computed again from h in each pass, rounded as the forward stored them.
//
// Where a kernel both reads and writes rows, these have no __restrict__: with it the compiler moves loads ahead of
// stores, which takes up to 15 more registers (sm_100).
#pragma once

#include "cuda/common/gelu.cuh"
#include "cuda/common/groups.cuh"
#include "mlp_grn.h"

namespace cnv2 {

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 3)
    mlp_activate_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                        const T* h,                   // [T, K]
                        const void* __restrict__ b1,  // [K] b1_dtype
                        const DType b1_dtype,
                        T* a,                         // [T, K]
                        float* __restrict__ partial)  // [splits, G, K]: sums of a^2
{
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float bias[kVector], sums[1][kVector] = {};
  walk.params(b1, b1_dtype, bias);
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(h + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = gelu<T>(v[i] + bias[i]).value;
    const auto stored = pack_vector<T>(v);
    unpack_vector(stored, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sums[0][i] = fmaf(v[i], v[i], sums[0][i]);
    store_packed(a + at, stored);
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 3)
    mlp_products_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                        const T* __restrict__ dg,     // [T, K]
                        const T* __restrict__ h,      // [T, K]
                        const void* __restrict__ b1,  // [K] b1_dtype
                        const DType b1_dtype,
                        float* __restrict__ partial)  // [2, splits, G, K]: sums of dg a, then of dg
{
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float bias[kVector], sums[2][kVector] = {};
  walk.params(b1, b1_dtype, bias);
  walk.each([&](int64_t at) {
    float g[kVector], v[kVector];
    load_vector<kVector>(dg + at, g);
    load_vector<kVector>(h + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = gelu<T>(v[i] + bias[i]).value;
    unpack_vector(pack_vector<T>(v), v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[0][i] = fmaf(g[i], v[i], sums[0][i]);
      sums[1][i] += g[i];
    }
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 2)
    mlp_backward_kernel(const RowGroups groups, const GroupTiling t, const int columns, const MlpBackward p,
                        const float* __restrict__ scale,   // [G, K]
                        const float* __restrict__ factor,  // [G, K]
                        float* __restrict__ partial)       // [splits, G, K]: sums of dh
{
  CNV2_SHARED(shared);
  const T* const dg = static_cast<const T*>(p.dg);  // [T, K]
  const T* const h = static_cast<const T*>(p.h);    // [T, K]
  T* const dh = static_cast<T*>(p.dh);              // [T, K]
  T* const g = static_cast<T*>(p.g);                // [T, K]
  const GroupWalk<kVector> walk(groups, t, columns);
  float bias[kVector], b[kVector], s[kVector], f[kVector], sums[1][kVector] = {};
  walk.params(p.b1, p.b1_dtype, bias);
  walk.params(p.beta, p.beta_dtype, b);
  walk.of_group(scale, s);
  walk.of_group(factor, f);
  walk.each([&](int64_t at) {
    float d[kVector], v[kVector], slope[kVector];
    load_vector<kVector>(dg + at, d);
    load_vector<kVector>(h + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Gelu act = gelu<T>(v[i] + bias[i]);
      v[i] = act.value;
      slope[i] = act.slope;
    }
    unpack_vector(pack_vector<T>(v), v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      d[i] = fmaf(d[i], s[i], v[i] * f[i]) * slope[i];
      v[i] = fmaf(v[i], s[i], b[i]);
      sums[0][i] += d[i];
    }
    store_vector<kVector>(g + at, v);
    store_vector<kVector>(dh + at, d);
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

// O: type of dout. Groups: the runs of rows that share a row_scale.
template <class T, class O, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    mlp_output_gradient_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                               const O* __restrict__ dout,           // [T, C']
                               const float* __restrict__ row_scale,  // [R], or null
                               T* __restrict__ dy,                   // [T, C'], or null
                               float* __restrict__ partial)          // [splits, R, C'], or null: sums of dy
{
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  const float scale = row_scale == nullptr ? 1.0f : row_scale[walk.group];
  float sums[1][kVector] = {};
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(dout + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] *= scale;
    const auto stored = pack_vector<T>(v);
    unpack_vector(stored, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sums[0][i] += v[i];
    if (dy != nullptr) store_packed(dy + at, stored);
  });
  if (partial != nullptr) walk.add_up(sums, shared, partial, groups.count, t.splits);
}

// The rows of `out` are those of w, again for each group.
template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    mlp_scale_weight_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                            const T* w,                       // [C', K]
                            const float* __restrict__ scale,  // [G, K]
                            T* out)                           // [G, C', K]
{
  const GroupWalk<kVector> walk(groups, t, columns);
  const int64_t first = walk.group * groups.rows_per_group * columns;
  float s[kVector];
  walk.of_group(scale, s);
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(w + (at - first), v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] *= s[i];
    store_vector<kVector>(out + at, v);
  });
}

// O: type of residual and result. Groups: the runs of rows that share a row_scale.
template <class T, class O, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    mlp_finish_kernel(const RowGroups groups, const GroupTiling t, const int columns,
                      const T* y,                     // [T, C']
                      const void* __restrict__ bias,  // [C'] bias_dtype
                      const DType bias_dtype,
                      const float* __restrict__ row_scale,  // [R], or null
                      const O* residual,                    // [T, C'], or null
                      O* out)                               // [T, C']
{
  const GroupWalk<kVector> walk(groups, t, columns);
  const float scale = row_scale == nullptr ? 1.0f : row_scale[walk.group];
  float b[kVector];
  walk.params(bias, bias_dtype, b);
  walk.each([&](int64_t at) {
    float v[kVector], r[kVector] = {};
    load_vector<kVector>(y + at, v);
    if (residual != nullptr) load_vector<kVector>(residual + at, r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = fmaf(v[i] + b[i], scale, r[i]);
    store_vector<kVector>(out + at, v);
  });
}

}  // namespace cnv2
