// How a block walks down some rows of a group: a few lanes side by side take a row in vectors of columns, the others
// the rows below. What belongs to a column (parameters, sums) stays in a thread's registers.
#pragma once

#include "common/row_groups.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/vector.cuh"

namespace cnv2 {

constexpr int kGroupThreads = 256;

struct GroupTiling {
  int splits;         // blocks that share the rows of a group
  int lanes;          // how many lanes take a row together: a power of 2, at most 32
  int column_blocks;  // blocks side by side, each of lanes * kVector columns
};

inline GroupTiling group_tiling(const RowGroups& groups, int64_t columns, int vector, const CudaDevice& device) {
  GroupTiling t{};
  for (t.lanes = 1; t.lanes < 32 && int64_t{t.lanes} * vector < columns;) t.lanes *= 2;
  const int64_t width = int64_t{t.lanes} * vector;
  t.column_blocks = static_cast<int>((columns + width - 1) / width);
  const int64_t count = groups.count > 0 ? groups.count : 1, rows = groups.rows / count;
  const int64_t wanted = (int64_t{8} * device.processors + count * t.column_blocks - 1) / (count * t.column_blocks);
  constexpr int kDeep = 4;  // rows of a thread, at least: with fewer, adding up the sums costs more than it saves
  const int64_t most = rows / (kGroupThreads / t.lanes * kDeep);
  t.splits = static_cast<int>(wanted < most ? wanted : most);
  if (t.splits < 1) t.splits = 1;
  return t;
}

inline dim3 group_grid(const RowGroups& groups, const GroupTiling& t) {
  return dim3(static_cast<unsigned>(groups.count * t.splits), static_cast<unsigned>(t.column_blocks));
}

// The rows and columns that a block works on. The grid is that of group_grid.
template <int kVector>
struct GroupWalk {
  int64_t begin, end, group;
  int column;  // the first column of this thread
  int lanes, line, lines, columns;
  bool inside;  // whether the thread has columns

  __device__ GroupWalk(const RowGroups& groups, const GroupTiling& t, int columns_)
      : lanes(t.lanes), columns(columns_) {
    const unsigned number = blockIdx.x / t.splits, split = blockIdx.x % t.splits;
    group = number;
    const int64_t first = groups.offsets != nullptr ? groups.offsets[number] : group * groups.rows_per_group;
    const int64_t size = groups.offsets != nullptr ? groups.offsets[number + 1] - first : groups.rows_per_group;
    const int64_t each = (size + t.splits - 1) / t.splits;
    begin = first + each * split;
    end = first + (each * (split + 1) < size ? each * (split + 1) : size);
    line = threadIdx.x / lanes;
    lines = blockDim.x / lanes;
    column = (static_cast<int>(blockIdx.y) * lanes + threadIdx.x % lanes) * kVector;
    inside = column < columns;
  }

  // Calls work(at) for each of this thread's rows with the index of its vector in [T, C].
  template <class F>
  __device__ void each(F&& work) const {
    if (!inside) return;
    const int64_t after = end * columns, step = int64_t{lines} * columns;
#pragma unroll 2
    for (int64_t at = (begin + line) * columns + column; at < after; at += step) work(at);
  }

  // Loads the parameters of this thread's columns from `p` [C], which has x's dtype or is float32; zeros where the
  // thread has no columns.
  __device__ void params(const void* p, DType dtype, float (&out)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = inside ? load_param(p, dtype, column + i) : 0.0f;
  }

  // The same from the group's row of `p`, float32 [G, C].
  __device__ void of_group(const float* p, float (&out)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = inside ? p[group * columns + column + i] : 0.0f;
  }

  // Adds up kSums vectors over the block's lines, in order, into `partial` [kSums, splits, G, C].
  // Shared memory: blockDim.x * kVector floats. All threads must call it.
  template <int kSums>
  __device__ void add_up(const float (&sums)[kSums][kVector], unsigned char* shared, float* partial, int64_t groups,
                         int splits) const {
    auto* const lines_of = reinterpret_cast<float*>(shared);  // [lines][lanes * kVector]
    const int width = lanes * kVector;
    const int64_t all = int64_t{splits} * groups * columns, split = blockIdx.x % splits;
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kVector; ++i) lines_of[threadIdx.x * kVector + i] = sums[s][i];
      __syncthreads();
      for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const int at = static_cast<int>(blockIdx.y) * width + i;
        if (at >= columns) continue;
        float total = 0.0f;
        for (int l = 0; l < lines; ++l) total += lines_of[l * width + i];
        partial[s * all + (split * groups + group) * columns + at] = total;
      }
    }
  }
};

template <int kVector>
constexpr int64_t kGroupShared = int64_t{kGroupThreads} * kVector * sizeof(float);

}  // namespace cnv2
