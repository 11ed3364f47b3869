#include "patch_conv.h"

#include "cuda/common/dtype.cuh"
#include "patch_conv_kernel.cuh"

namespace cnv2 {
namespace {

unsigned blocks_for(int64_t work, const CudaDevice& device) {
  const int64_t wanted = (work + kPatchThreads - 1) / kPatchThreads, most = int64_t{16} * device.processors;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

// The widest word that divides runs, rows of sources and both addresses.
int64_t word_bytes(const PatchCopy& p, int64_t run_bytes) {
  const auto bits = static_cast<uint64_t>(run_bytes) | static_cast<uint64_t>(p.c * p.size) |
                    reinterpret_cast<uintptr_t>(p.from) | reinterpret_cast<uintptr_t>(p.to);
  for (int64_t bytes = 16; bytes > p.size; bytes /= 2) {
    if (bits % static_cast<uint64_t>(bytes) == 0) return bytes;
  }
  return p.size;
}

// Runs of image order may begin at any multiple of k rows: then only those, not single rows, must be whole words.
int64_t widest(const PatchCopy& p, int64_t run_bytes) {
  if (p.blocks.kind == BlockTable::kChildren) return word_bytes(p, run_bytes);
  PatchCopy aligned = p;
  aligned.c = run_bytes / p.size;
  const int64_t line = p.c * p.size * p.blocks.width;  // where the next image row begins
  int64_t bytes = word_bytes(aligned, run_bytes);
  while (bytes > p.size && line % bytes != 0) bytes /= 2;
  return bytes;
}

template <bool kScatter>
cudaError_t launch_copy(const PatchCopy& p, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  const bool side_by_side = p.blocks.kind != BlockTable::kChildren;
  const int64_t run_bytes = (side_by_side ? p.blocks.k : 1) * p.c * p.size;
  const int64_t bytes = widest(p, run_bytes);
  const int64_t words = p.blocks.k * p.blocks.k * p.c * p.size / bytes;  // words of a result row
  constexpr int64_t kEach = 4;                                           // words of a thread, at least
  if (words * kEach > 0x3fffffff || p.blocks.rows * p.blocks.k * p.blocks.k > 0x7fffffff) return cudaErrorInvalidValue;
  const int64_t together = (kEach * kPatchThreads + words - 1) / words;
  const auto start = [&](auto word) {
    using Word = decltype(word);
    const unsigned blocks = blocks_for((p.blocks.rows + together - 1) / together * kPatchThreads, device);
    return launch(patch_copy_kernel<Word, kScatter>, blocks, kPatchThreads, 0, stream, p, static_cast<int>(together),
                  static_cast<int>(words), static_cast<int>(run_bytes / bytes));
  };
  switch (bytes) {
    case 16:
      return start(uint4{});
    case 8:
      return start(uint2{});
    case 4:
      return start(unsigned{});
    default:
      return start(static_cast<unsigned short>(0));
  }
}

template <class T, int kVector>
cudaError_t launch_norm(const PatchNorm& p, const CudaDevice& device, cudaStream_t stream) {
  int lanes = 1;
  while (lanes < 32 && int64_t{lanes} * 4 * kVector < p.c) lanes *= 2;
  const int64_t rows = p.blocks.rows * p.blocks.k * p.blocks.k;
  if (rows > 0x7fffffff) return cudaErrorInvalidValue;
  return launch(patch_gather_norm_kernel<T, kVector>, blocks_for(rows * lanes, device), kPatchThreads,
                2 * p.c * int64_t{sizeof(float)}, stream, p, lanes);
}

}  // namespace

cudaError_t launch_patch_gather(const PatchCopy& p, cudaStream_t stream) { return launch_copy<false>(p, stream); }

cudaError_t launch_patch_scatter(const PatchCopy& p, cudaStream_t stream) { return launch_copy<true>(p, stream); }

cudaError_t launch_patch_gather_norm(const PatchNorm& p, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  return with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (is_aligned16(p.c, sizeof(T), p.x, p.out)) return launch_norm<T, kWide<T>>(p, device, stream);
    return launch_norm<T, 1>(p, device, stream);
  });
}

}  // namespace cnv2
