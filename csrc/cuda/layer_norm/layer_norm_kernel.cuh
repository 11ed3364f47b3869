// LayerNorm of rows and its gradients. A few lanes take a row of moderate width and keep it in registers; a whole block
// takes a wide one and reads it again, from the cache, in each pass. Statistics in two passes.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row_norm.cuh"
#include "layer_norm.h"

namespace cnv2 {

constexpr int kLayerNormThreads = 256, kLayerNormHeld = 4;

// Shared memory holds weight and bias in float32. `lanes` is a power of 2, at most 32.
template <class T, int kVector, int kHeld>
__global__ void __launch_bounds__(kLayerNormThreads)
    layer_norm_forward_kernel(const LayerNormForward p, const int lanes) {
  CNV2_SHARED(shared);
  const T* __restrict__ const x = static_cast<const T*>(p.x);  // [rows, c]
  T* __restrict__ const y = static_cast<T*>(p.y);              // [rows, c]
  float* const params = reinterpret_cast<float*>(shared);      // [2, c]
  const int c = static_cast<int>(p.c);
  for (int i = threadIdx.x; i < c; i += blockDim.x) {
    params[i] = load_param(p.weight, p.param_dtype, i);
    params[c + i] = load_param(p.bias, p.param_dtype, i);
  }
  __syncthreads();
  const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
  for (int64_t begin = int64_t{blockIdx.x} * groups; begin < p.rows; begin += int64_t{gridDim.x} * groups) {
    const int64_t row = begin + group;
    normalise_row<kVector, kHeld>(x + row * p.c, params, params + c, y + row * p.c, static_cast<T*>(nullptr), c, p.eps,
                                  lane, lanes, row < p.rows);
  }
}

// Rows of at most kLayerNormHeld vectors a lane. The gradients of weight and bias stay in registers over a thread's
// rows; x and dy are kept as they lie in memory, which takes half the registers. Shared memory holds weight, then
// the threads' sums [groups, 2, C].
template <class T, int kVector>
__global__ void __launch_bounds__(kLayerNormThreads, 2)
    layer_norm_backward_kernel(const LayerNormBackward p, const int lanes) {
  CNV2_SHARED(shared);
  using Raw = Vector<T, kVector>;
  const T* __restrict__ const all_x = static_cast<const T*>(p.x);    // [rows, c]
  const T* __restrict__ const all_dy = static_cast<const T*>(p.dy);  // [rows, c]
  T* __restrict__ const dx = static_cast<T*>(p.dx);                  // [rows, c]
  float* __restrict__ const partial = p.partial;                     // [blocks, 2, c]
  float* const weight = reinterpret_cast<float*>(shared);            // [c]
  const int c = static_cast<int>(p.c), vectors = c / kVector;
  for (int i = threadIdx.x; i < c; i += blockDim.x) weight[i] = load_param(p.weight, p.param_dtype, i);
  __syncthreads();
  const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
  const float inverse_c = 1.0f / static_cast<float>(c);
  float dweight[kLayerNormHeld][kVector] = {}, dbias[kLayerNormHeld][kVector] = {};
  // Calls work(k, at) for each vector of this lane.
  Raw x[kLayerNormHeld], dy[kLayerNormHeld];
  const auto each = [&](bool live, auto&& work) {
#pragma unroll
    for (int k = 0; k < kLayerNormHeld; ++k) {
      if (live && lane + k * lanes < vectors) work(k, lane + k * lanes);
    }
  };
  for (int64_t begin = int64_t{blockIdx.x} * groups; begin < p.rows; begin += int64_t{gridDim.x} * groups) {
    const int64_t row = begin + group;
    const bool live = row < p.rows;
    const T* const from_x = all_x + row * p.c;
    const T* const from_dy = all_dy + row * p.c;
    each(live, [&](int k, int at) {
      x[k].word = *reinterpret_cast<const typename Raw::Word*>(from_x + at * kVector);
      dy[k].word = *reinterpret_cast<const typename Raw::Word*>(from_dy + at * kVector);
    });
    float sum = 0.0f, squares = 0.0f, mean_g = 0.0f, mean_gx = 0.0f;
    each(live, [&](int k, int) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum += load_float(&x[k].element[i]);
    });
    const float mean = lanes_sum(sum, lanes) * inverse_c;
    each(live, [&](int k, int) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float d = load_float(&x[k].element[i]) - mean;
        squares = fmaf(d, d, squares);
      }
    });
    const float rstd = 1.0f / sqrtf(lanes_sum(squares, lanes) * inverse_c + p.eps);
    each(live, [&](int k, int at) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float g = load_float(&dy[k].element[i]), unit = (load_float(&x[k].element[i]) - mean) * rstd;
        dweight[k][i] = fmaf(g, unit, dweight[k][i]);
        dbias[k][i] += g;
        const float weighted = g * weight[at * kVector + i];
        mean_g += weighted;
        mean_gx = fmaf(weighted, unit, mean_gx);
      }
    });
    mean_g = lanes_sum(mean_g, lanes) * inverse_c;
    mean_gx = lanes_sum(mean_gx, lanes) * inverse_c;
    each(live, [&](int k, int at) {
      float out[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float unit = (load_float(&x[k].element[i]) - mean) * rstd;
        out[i] = rstd * (load_float(&dy[k].element[i]) * weight[at * kVector + i] - mean_g - unit * mean_gx);
      }
      store_vector<kVector>(dx + row * p.c + at * kVector, out);
    });
  }
  float* const sums = weight + c;
  each(true, [&](int k, int at) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[(group * 2 + 0) * c + at * kVector + i] = dweight[k][i];
      sums[(group * 2 + 1) * c + at * kVector + i] = dbias[k][i];
    }
  });
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * c; i += blockDim.x) {
    float total = 0.0f;
    for (int g = 0; g < groups; ++g) total += sums[g * 2 * c + i];
    partial[int64_t{blockIdx.x} * 2 * c + i] = total;
  }
}

// Rows of any width. A block takes one at a time, and a thread every blockDim.x-th vector of it. Shared memory holds
// weight, the sums [2, C] over the block's rows, and what the reduction needs.
template <class T, int kVector>
__global__ void __launch_bounds__(kLayerNormThreads) layer_norm_backward_wide_kernel(const LayerNormBackward p) {
  CNV2_SHARED(shared);
  const int c = static_cast<int>(p.c), vectors = c / kVector;
  const T* __restrict__ const all_x = static_cast<const T*>(p.x);    // [rows, c]
  const T* __restrict__ const all_dy = static_cast<const T*>(p.dy);  // [rows, c]
  T* __restrict__ const dx = static_cast<T*>(p.dx);                  // [rows, c]
  float* __restrict__ const partial = p.partial;                     // [blocks, 2, c]
  float* const weight = reinterpret_cast<float*>(shared);            // [c]
  float* const sums = weight + c;                                    // [2, c]
  float* const reduced = sums + 2 * c;
  for (int i = threadIdx.x; i < c; i += blockDim.x) {
    weight[i] = load_param(p.weight, p.param_dtype, i);
    sums[i] = sums[c + i] = 0.0f;
  }
  const float inverse_c = 1.0f / static_cast<float>(c);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* const from_x = all_x + row * p.c;
    const T* const from_dy = all_dy + row * p.c;
    float x[kVector], dy[kVector];
    float mean[1] = {}, rstd[1] = {}, means[2] = {};
    for (int at = threadIdx.x; at < vectors; at += blockDim.x) {
      load_vector<kVector>(from_x + at * kVector, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) mean[0] += x[i];
    }
    block_sum<1>(mean, reduced);
    mean[0] *= inverse_c;
    for (int at = threadIdx.x; at < vectors; at += blockDim.x) {
      load_vector<kVector>(from_x + at * kVector, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) rstd[0] = fmaf(x[i] - mean[0], x[i] - mean[0], rstd[0]);
    }
    block_sum<1>(rstd, reduced);
    rstd[0] = 1.0f / sqrtf(rstd[0] * inverse_c + p.eps);
    for (int at = threadIdx.x; at < vectors; at += blockDim.x) {
      load_vector<kVector>(from_x + at * kVector, x);
      load_vector<kVector>(from_dy + at * kVector, dy);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const int column = at * kVector + i;
        const float unit = (x[i] - mean[0]) * rstd[0], weighted = dy[i] * weight[column];
        sums[column] = fmaf(dy[i], unit, sums[column]);
        sums[c + column] += dy[i];
        means[0] += weighted;
        means[1] = fmaf(weighted, unit, means[1]);
      }
    }
    block_sum<2>(means, reduced);
    for (int at = threadIdx.x; at < vectors; at += blockDim.x) {
      load_vector<kVector>(from_x + at * kVector, x);
      load_vector<kVector>(from_dy + at * kVector, dy);
      float out[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float unit = (x[i] - mean[0]) * rstd[0];
        out[i] = rstd[0] * (dy[i] * weight[at * kVector + i] - (means[0] + unit * means[1]) * inverse_c);
      }
      store_vector<kVector>(dx + row * p.c + at * kVector, out);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * c; i += blockDim.x) partial[int64_t{blockIdx.x} * 2 * c + i] = sums[i];
}

}  // namespace cnv2
