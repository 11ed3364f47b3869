// Chooses the tile and the number of blocks of a backward call, and starts the kernel. Included once per storage type.
#pragma once

#include "backward_kernel.cuh"
#include "launchers.h"

namespace cnv2 {

template <class T, int kChannels, int kStrip, bool kSites>
struct BackwardVariant {
  // Chooses tiles whose strips come out even among the slots of a block.
  static DwconvCudaTiling tiling(const DwconvBackward& p, const CudaDevice& device) {
    DwconvCudaTiling t{};
    t.rows = p.plane.h < 8 ? p.plane.h : 8;
    t.columns = p.plane.w > kStrip ? 2 * kStrip : kStrip;
    t.pitch = (t.columns + kDwconvSide - 1) | 1;
    t.tiles_x = (p.plane.w + t.columns - 1) / t.columns;
    t.tiles_y = (p.plane.h + t.rows - 1) / t.rows;
    t.chunks = static_cast<int>((p.c + kChannels - 1) / kChannels);
    t.aligned = is_aligned16(p.c, sizeof(T), p.dy, p.x);
    t.taps_aligned = is_aligned16(p.c, sizeof(float), p.taps);
    t.stages = 2 * (bytes(t, 2) + 1024) <= device.shared_bytes_per_processor ? 2 : 1;
    return t;
  }

  static int64_t bytes(const DwconvCudaTiling& t, int stages) {
    return DwconvBackwardShared(t, kChannels, sizeof(T)).bytes(stages);
  }

  // As many blocks as run at a time, or one for each tile where there are fewer tiles.
  static int64_t blocks(const DwconvBackward& p, const CudaDevice& device) {
    const DwconvCudaTiling t = tiling(p, device);
    const int64_t tiles = p.plane.n * t.tiles_x * t.tiles_y;
    int64_t resident = device.shared_bytes_per_processor / (bytes(t, t.stages) + 1024);
    const int64_t most = dwconv_backward_resident(device.capability);
    if (resident > most) resident = most;
    const int64_t wanted = resident * device.processors / t.chunks;
    return tiles < wanted ? tiles : wanted > 0 ? wanted : 1;
  }

  static cudaError_t start(const DwconvBackward& p, const CudaDevice& device, int64_t blocks, cudaStream_t stream) {
    const DwconvCudaTiling t = tiling(p, device);
    const int64_t tiles = p.plane.n * t.tiles_x * t.tiles_y;
    if (tiles > 0x3fffffff) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(t.chunks));
    return launch(dwconv_backward_kernel<T, kChannels, kStrip, kSites>, grid, kDwconvBackwardThreads,
                  bytes(t, t.stages), stream, p, t, static_cast<int>(tiles));
  }
};

// Calls run(Variant{}) with the variant that the call uses.
template <class T, class F>
cudaError_t with_backward_variant(const DwconvBackward& p, F&& run) {
  if constexpr (sizeof(T) == 2) {
    if (p.c % 32 == 0) {
      return p.plane.map != nullptr ? run(BackwardVariant<T, 32, 4, true>{})
                                    : run(BackwardVariant<T, 32, kDwconvSide, false>{});
    }
  }
  return p.plane.map != nullptr ? run(BackwardVariant<T, 16, 4, true>{})
                                : run(BackwardVariant<T, 16, kDwconvSide, false>{});
}

template <class T>
cudaError_t backward_blocks_as(const DwconvBackward& p, int64_t* blocks) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  return with_backward_variant<T>(p, [&](auto variant) {
    *blocks = variant.blocks(p, device);
    return cudaSuccess;
  });
}

template <class T>
cudaError_t launch_backward_as(const DwconvBackward& p, int64_t blocks, cudaStream_t stream) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  return with_backward_variant<T>(p, [&](auto variant) { return variant.start(p, device, blocks, stream); });
}

}  // namespace cnv2
