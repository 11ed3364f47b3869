// Gathers the k x k source rows of each result row side by side, or puts them back. What lies together in the image, k
// rows of an image or one row from a table, moves as one run of words, a thread each.
#pragma once

#include "cuda/common/launch.cuh"
#include "cuda/common/row_norm.cuh"
#include "patch_conv.h"

namespace cnv2 {

constexpr int kPatchThreads = 256;

// The source row of tap (ky, kx) of result row t; -1: none.
__device__ inline int64_t source_row(const PatchBlocks& b, int64_t t, int ky, int kx) {
  if (b.kind == BlockTable::kChildren) return b.table[(t * b.k + ky) * b.k + kx];
  const auto site = static_cast<unsigned>(b.kind == BlockTable::kSites ? b.table[t] : t);  // fewer than 2^31 of them
  const unsigned across = b.width / b.k, down = b.height / b.k;
  const unsigned line = site / across;  // a line of result sites, counted over all samples
  const unsigned n = line / down;
  const unsigned y = (line - n * down) * b.k + ky, x = (site - line * across) * b.k + kx;
  return (int64_t{n} * b.height + y) * b.width + x;
}

// A block takes `together` result rows at a time, of `words` words each, in runs of `run`: k source rows where the
// image holds them side by side, else one. Words have a power of 2 of bytes.
template <class Word, bool kScatter>
__global__ void __launch_bounds__(kPatchThreads)
    patch_copy_kernel(const PatchCopy p, const int together, const int words, const int run) {
  const bool side_by_side = p.blocks.kind != BlockTable::kChildren;
  const int64_t row_bytes = p.c * p.size;
  const char* __restrict__ const from = static_cast<const char*>(p.from);  // [S, c], to scatter [rows, k, k, c]
  char* __restrict__ const to = static_cast<char*>(p.to);                  // [rows, k, k, c], to scatter [S, c]
  for (int64_t first = int64_t{blockIdx.x} * together; first < p.blocks.rows; first += int64_t{gridDim.x} * together) {
    const int64_t left = p.blocks.rows - first;
    const int count = (left < together ? static_cast<int>(left) : together) * words;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int row = i / words, tap = (i - row * words) / run, word = (i - row * words) % run;
      const int ky = side_by_side ? tap : tap / p.blocks.k, kx = side_by_side ? 0 : tap % p.blocks.k;
      const int64_t source = source_row(p.blocks, first + row, ky, kx);
      if constexpr (kScatter) {
        if (source < 0) continue;
        reinterpret_cast<Word*>(to + source * row_bytes)[word] = reinterpret_cast<const Word*>(from)[first * words + i];
      } else {
        Word value{};
        const auto* const line = reinterpret_cast<const Word*>(from + source * row_bytes);
        if (source >= 0) value = line[word];
        reinterpret_cast<Word*>(to)[first * words + i] = value;
      }
    }
  }
}

// `lanes` lanes normalise a source row on its way. Shared memory holds weight and bias in float32.
template <class T, int kVector>
__global__ void __launch_bounds__(kPatchThreads) patch_gather_norm_kernel(const PatchNorm p, const int lanes) {
  CNV2_SHARED(shared);
  const T* __restrict__ const x = static_cast<const T*>(p.x);  // [S, c]
  T* __restrict__ const out = static_cast<T*>(p.out);          // [rows, k, k, c]
  float* const params = reinterpret_cast<float*>(shared);      // [2, c]
  const int c = static_cast<int>(p.c), taps = p.blocks.k * p.blocks.k;
  for (int i = threadIdx.x; i < c; i += blockDim.x) {
    params[i] = load_param(p.weight, p.param_dtype, i);
    params[c + i] = load_param(p.bias, p.param_dtype, i);
  }
  __syncthreads();
  const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
  const auto rows = static_cast<unsigned>(p.blocks.rows * taps);  // fewer than 2^31
  for (unsigned begin = blockIdx.x * groups; begin < rows; begin += gridDim.x * groups) {
    const unsigned row = begin + group;
    int64_t source = -1;
    if (row < rows) {
      const int tap = static_cast<int>(row % taps);
      source = source_row(p.blocks, row / taps, tap / p.blocks.k, tap % p.blocks.k);
    }
    T* const to = out + row * p.c;
    normalise_row<kVector, 0>(x + source * p.c, params, params + c, to, static_cast<T*>(nullptr), c, p.eps, lane, lanes,
                              source >= 0);
    if (row < rows && source < 0) {
      const float zeros[kVector] = {};
      for (int at = lane; at < c / kVector; at += lanes) store_vector<kVector>(to + at * kVector, zeros);
    }
  }
}

}  // namespace cnv2
