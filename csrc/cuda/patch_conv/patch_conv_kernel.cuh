// Gathers the k x k source rows of each result row side by side, or puts them back. What lies together in the image, k rows
// of an image or one row from a table, moves as one run of words, a thread each.
#pragma once

#include "cnv2/cuda_launch.cuh"
#include "cnv2/cuda_row_norm.cuh"
#include "patch_conv.h"

namespace cnv2 {

constexpr int kPatchThreads = 256;

// The source row of tap (ky, kx) of result row t; -1: none.
__device__ inline int64_t source_row(const PatchBlocks& b, int64_t t, int ky, int kx) {
  if (b.kind == BlockTable::kChildren) return b.table[(t * b.k + ky) * b.k + kx];
  const int64_t site = b.kind == BlockTable::kSites ? b.table[t] : t;
  const int across = b.width / b.k, down = b.height / b.k;
  const int64_t line = site / across;  // of result sites, over all samples
  const int64_t n = line / down;
  const int64_t y = (line - n * down) * b.k + ky, x = (site - line * across) * b.k + kx;
  return (n * b.height + y) * b.width + x;
}

// Runs of `run` words: k rows where the image holds them side by side, else one. Words have a power of 2 of bytes.
template <class Word, bool kScatter>
__global__ void __launch_bounds__(kPatchThreads)
    patch_copy_kernel(const PatchCopy p, const int64_t words, const int run) {
  const bool side_by_side = p.blocks.kind != BlockTable::kChildren;
  const int runs = side_by_side ? p.blocks.k : p.blocks.k * p.blocks.k;  // of a result row
  const int64_t row_bytes = p.c * p.size, step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words; i += step) {
    const int64_t number = i / run, t = number / runs;
    const int word = static_cast<int>(i - number * run), tap = static_cast<int>(number - t * runs);
    const int ky = side_by_side ? tap : tap / p.blocks.k, kx = side_by_side ? 0 : tap % p.blocks.k;
    const int64_t source = source_row(p.blocks, t, ky, kx);
    if constexpr (kScatter) {
      if (source < 0) continue;
      auto* const to = reinterpret_cast<Word*>(static_cast<char*>(p.to) + source * row_bytes);
      to[word] = static_cast<const Word*>(p.from)[i];
    } else {
      Word value{};
      if (source >= 0) value = reinterpret_cast<const Word*>(static_cast<const char*>(p.from) + source * row_bytes)[word];
      static_cast<Word*>(p.to)[i] = value;
    }
  }
}

// `lanes` lanes normalise a source row on its way. Shared memory: weight and bias, float32.
template <class T, int kVector>
__global__ void __launch_bounds__(kPatchThreads) patch_gather_norm_kernel(const PatchNorm p, const int lanes) {
  CNV2_SHARED(shared);
  float* const params = reinterpret_cast<float*>(shared);
  const int c = static_cast<int>(p.c), taps = p.blocks.k * p.blocks.k;
  for (int i = threadIdx.x; i < c; i += blockDim.x) {
    params[i] = load_param(p.weight, p.param_dtype, i);
    params[c + i] = load_param(p.bias, p.param_dtype, i);
  }
  __syncthreads();
  const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
  const int64_t rows = p.blocks.rows * taps;
  for (int64_t begin = int64_t{blockIdx.x} * groups; begin < rows; begin += int64_t{gridDim.x} * groups) {
    const int64_t row = begin + group;
    int64_t source = -1;
    if (row < rows) {
      const int64_t t = row / taps;
      const int tap = static_cast<int>(row - t * taps);
      source = source_row(p.blocks, t, tap / p.blocks.k, tap % p.blocks.k);
    }
    T* const out = static_cast<T*>(p.out) + row * p.c;
    normalise_row<kVector, 0>(static_cast<const T*>(p.x) + source * p.c, params, params + c, out,
                              static_cast<T*>(nullptr), c, p.eps, lane, lanes, source >= 0);
    if (row < rows && source < 0) {
      const float zeros[kVector] = {};
      for (int at = lane; at < c / kVector; at += lanes) store_vector<kVector>(out + at * kVector, zeros);
    }
  }
}

}  // namespace cnv2
