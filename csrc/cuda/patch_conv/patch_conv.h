// Launches the CUDA kernels that gather and scatter the blocks of a patch convolution. No framework header.
#pragma once

#include "common/dtype.h"
#include "cuda/common/api.h"

namespace cnv2 {

// Where the k x k source rows of each result row lie: in image order, at the sites that `table` names, or, one by one,
// as `table` says (-1: none, zeros).
enum class BlockTable : int { kNone = 0, kSites = 1, kChildren = 2 };

struct PatchBlocks {
  const int64_t* table;  // null, [rows] or [rows, k * k]
  BlockTable kind;
  int64_t rows;  // rows of the result
  int height, width, k;
};

struct PatchCopy {
  const void* from;
  void* to;
  PatchBlocks blocks;
  int64_t c;     // channels of a source row
  int64_t size;  // bytes of an element
};

struct PatchNorm {
  const void* x;       // [S, c] dtype
  const void* weight;  // [c] param_dtype
  const void* bias;    // [c] param_dtype
  void* out;           // [rows, k, k, c] dtype
  PatchBlocks blocks;
  int64_t c;
  float eps;
  DType dtype;
  DType param_dtype;
};

// Each enqueues one call on `stream` of the current device and returns the launch's error. The first copies x [S, c] to
// blocks [rows, k, k, c]. The second copies blocks back to x; source rows that no block has stay as they are. The third
// is the first with x normalised over c on the way.
cudaError_t launch_patch_gather(const PatchCopy& params, cudaStream_t stream);
cudaError_t launch_patch_scatter(const PatchCopy& params, cudaStream_t stream);
cudaError_t launch_patch_gather_norm(const PatchNorm& params, cudaStream_t stream);

}  // namespace cnv2
