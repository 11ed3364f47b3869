// What surrounds mlp_grn's matrix products: bias, GELU and the groups' sums on the way in, scale on the way out, and
// their gradients. The activations are computed again from h in each pass, rounded as the forward stored them.
#pragma once

#include "cuda/common/gelu.cuh"
#include "cuda/common/groups.cuh"
#include "mlp_grn.h"

namespace cnv2 {

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 3)
    mlp_activate_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* h, const void* b1,
                        const DType b1_dtype, T* a, float* partial) {
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float bias[kVector], sums[1][kVector] = {};
  walk.params(b1, b1_dtype, bias);
  walk.each([&](int64_t at) {
    float v[kVector];
    load_vector<kVector>(h + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      v[i] = rounded<T>(gelu<T>(v[i] + bias[i]).value);
      sums[0][i] = fmaf(v[i], v[i], sums[0][i]);
    }
    store_vector<kVector>(a + at, v);
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 3)
    mlp_products_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* dg, const T* h,
                        const void* b1, const DType b1_dtype, float* partial) {
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float bias[kVector], sums[2][kVector] = {};
  walk.params(b1, b1_dtype, bias);
  walk.each([&](int64_t at) {
    float g[kVector], v[kVector];
    load_vector<kVector>(dg + at, g);
    load_vector<kVector>(h + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[0][i] = fmaf(g[i], rounded<T>(gelu<T>(v[i] + bias[i]).value), sums[0][i]);
      sums[1][i] += g[i];
    }
  });
  walk.add_up(sums, shared, partial, groups.count, t.splits);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 2)
    mlp_backward_kernel(const RowGroups groups, const GroupTiling t, const int columns, const MlpBackward p) {
  CNV2_SHARED(shared);
  const GroupWalk<kVector> walk(groups, t, columns);
  float bias[kVector], beta[kVector], scale[kVector], factor[kVector], sums[1][kVector] = {};
  walk.params(p.b1, p.b1_dtype, bias);
  walk.params(p.beta, p.beta_dtype, beta);
  walk.of_group(p.scale, scale);
  walk.of_group(p.factor, factor);
  walk.each([&](int64_t at) {
    float g[kVector], v[kVector];
    load_vector<kVector>(static_cast<const T*>(p.dg) + at, g);
    load_vector<kVector>(static_cast<const T*>(p.h) + at, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Gelu act = gelu<T>(v[i] + bias[i]);
      const float a = rounded<T>(act.value);
      v[i] = fmaf(a, scale[i], beta[i]);
      g[i] = fmaf(g[i], scale[i], a * factor[i]) * act.slope;
      sums[0][i] += g[i];
    }
    store_vector<kVector>(static_cast<T*>(p.g) + at, v);
    store_vector<kVector>(static_cast<T*>(p.dh) + at, g);
  });
  walk.add_up(sums, shared, p.partial, groups.count, t.splits);
}

// The rows of `out` are those of w, again for each group.
template <class T, int kVector>
__global__ void __launch_bounds__(kGroupThreads, 4)
    mlp_scale_weight_kernel(const RowGroups groups, const GroupTiling t, const int columns, const T* w,
                            const float* scale, T* out) {
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
    mlp_finish_kernel(const RowGroups groups, const GroupTiling t, const int columns, const MlpFinish p) {
  const GroupWalk<kVector> walk(groups, t, columns);
  const float scale = p.row_scale == nullptr ? 1.0f : p.row_scale[walk.group];
  const O* const residual = static_cast<const O*>(p.residual);
  float bias[kVector];
  walk.params(p.bias, p.bias_dtype, bias);
  walk.each([&](int64_t at) {
    float v[kVector], r[kVector] = {};
    load_vector<kVector>(static_cast<const T*>(p.y) + at, v);
    if (residual != nullptr) load_vector<kVector>(residual + at, r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = fmaf(v[i] + bias[i], scale, r[i]);
    store_vector<kVector>(static_cast<O*>(p.out) + at, v);
  });
}

}  // namespace cnv2
