// Chooses tile, strip and channels per chunk for a forward call, and starts the kernel. Included once per storage type.
#pragma once

#include "forward_kernel.cuh"
#include "launchers.h"

namespace cnv2 {

// How good a choice would be on the device: larger is better. It is an estimate that no timing has gone into. It
// weighs, in this order, how many threads have work at a time, the outputs that a tile computes beyond the plane, the
// instructions per output, and what tiles read twice.
inline double dwconv_score(const DwconvCudaTiling& t, const DwconvPlane& plane, const CudaDevice& device, int64_t bytes,
                           int items, int threads, double instructions) {
  constexpr int64_t kReserved = 1024;        // bytes of each block that the system takes
  constexpr double kEnough = 512;            // threads of a processor that hide its latencies, as each has several sums
  constexpr int64_t kRegisterThreads = 512;  // threads of 128 registers that fit a processor
  if (bytes > device.shared_bytes) return 0.0;
  int64_t blocks = device.shared_bytes_per_processor / (bytes + kReserved);
  if (blocks > kRegisterThreads / threads) blocks = kRegisterThreads / threads;
  const double busy = static_cast<double>(blocks * (items < threads ? items : threads)) / kEnough;
  const double outputs = static_cast<double>(t.tiles_x * t.columns) * (t.tiles_y * t.rows);
  const double useful = static_cast<double>(plane.h) * plane.w / outputs;
  const double halo =
      static_cast<double>(t.rows + kDwconvSide - 1) * (t.columns + kDwconvSide - 1) / (t.rows * t.columns);
  return (busy < 1.0 ? busy : 1.0) * useful / (instructions * (1.0 + 0.05 * halo)) * (t.stages == 2 ? 1.02 : 1.0);
}

// One shape of strips. `consider` finds the best tile for it and keeps that in `best` if it beats what is there.
template <class T, int kChannels, int kStrip, int kRows, bool kSites>
struct ForwardVariant {
  static constexpr int kPairs = kChannels / 2;
  // Instructions per multiply-add: loads and conversions of kStrip + 6 inputs and 7 taps serve 7 * kStrip * kRows
  // multiply-adds.
  static constexpr double kInstructions = 1.0 + (1.5 * (kStrip + 6) + 3.5) / (7.0 * kStrip * kRows);

  static DwconvCudaTiling tiling(const DwconvForward& p, int rows, int columns, int stages, bool aligned) {
    DwconvCudaTiling t{};
    t.rows = rows;
    t.columns = columns;
    t.pitch = (columns + kDwconvSide - 1) | 1;
    t.tiles_x = (p.plane.w + columns - 1) / columns;
    t.tiles_y = (p.plane.h + rows - 1) / rows;
    t.chunks = static_cast<int>((p.c + kChannels - 1) / kChannels);
    t.stages = stages;
    t.aligned = aligned;
    t.taps_aligned = is_aligned16(p.c, sizeof(float), p.taps);
    const int pad = 16 / static_cast<int>(sizeof(T));  // rows of results start in different banks
    t.z_pitch = p.ln_weight != nullptr ? t.chunks * kChannels + pad : kChannels;
    const int64_t vectors = aligned ? p.c / kWide<T> : p.c;
    for (t.lanes = 1; t.lanes < 32 && int64_t{t.lanes} * 4 < vectors;) t.lanes *= 2;
    return t;
  }

  static int items(const DwconvCudaTiling& t) { return t.rows / kRows * (t.columns / kStrip) * kPairs; }
  static int threads(const DwconvCudaTiling& t) {
    const int wanted = (items(t) + 31) / 32 * 32;
    return wanted < 128 ? 128 : wanted < kDwconvThreads ? wanted : kDwconvThreads;
  }
  static int64_t bytes(const DwconvForward& p, const DwconvCudaTiling& t) {
    return DwconvForwardShared(t, kChannels, sizeof(T), p.c, p.ln_weight != nullptr).bytes(t.stages);
  }

  static void consider(const DwconvForward& p, const CudaDevice& device, bool aligned, DwconvCudaTiling* best,
                       double* best_score, int* chosen, int number) {
    for (const int rows : {14, 8, 7, 4, 2, 1}) {
      const int needed = (p.plane.h + kRows - 1) / kRows * kRows;
      if (rows % kRows != 0 || (kSites && rows > 8) || (rows > needed && rows != 14)) continue;
      for (const int columns : {2 * kStrip, kStrip}) {
        if (columns >= p.plane.w + kStrip) continue;
        for (const int stages : {2, 1}) {
          const DwconvCudaTiling t = tiling(p, rows < needed ? rows : needed, columns, stages, aligned);
          const double score = dwconv_score(t, p.plane, device, bytes(p, t), items(t), threads(t), kInstructions);
          if (score <= *best_score) continue;
          *best = t;
          *best_score = score;
          *chosen = number;
        }
      }
    }
  }

  static cudaError_t start(const DwconvForward& p, const DwconvCudaTiling& t, cudaStream_t stream) {
    const int64_t tiles = p.plane.n * t.tiles_x * t.tiles_y;
    if (tiles > 0x7fffffff) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>(tiles), p.ln_weight != nullptr ? 1u : static_cast<unsigned>(t.chunks));
    return launch(dwconv_forward_kernel<T, kChannels, kStrip, kRows, kSites>, grid, threads(t), bytes(p, t), stream, p,
                  t);
  }
};

// A fused kernel whose score is lower loses to two kernels, convolution and then LayerNorm.
constexpr double kWorthFusing = 0.2;

template <class T, int kChannels>
cudaError_t launch_forward_chunks(const DwconvForward& p, const CudaDevice& device, bool aligned, cudaStream_t stream,
                                  bool* ran) {
  using Sites = ForwardVariant<T, kChannels, 4, 2, true>;
  using Two = ForwardVariant<T, kChannels, kDwconvSide, 2, false>;
  using One = ForwardVariant<T, kChannels, kDwconvSide, 1, false>;
  DwconvCudaTiling best{};
  double score = 0.0;
  int chosen = 0;
  if (p.plane.map != nullptr) {
    Sites::consider(p, device, aligned, &best, &score, &chosen, 0);
  } else {
    Two::consider(p, device, aligned, &best, &score, &chosen, 1);
    One::consider(p, device, aligned, &best, &score, &chosen, 2);
  }
  if (score == 0.0 || (p.ln_weight != nullptr && score < kWorthFusing)) {
    *ran = false;
    return p.ln_weight != nullptr ? cudaSuccess : cudaErrorInvalidValue;
  }
  *ran = true;
  return chosen == 0   ? Sites::start(p, best, stream)
         : chosen == 1 ? Two::start(p, best, stream)
                       : One::start(p, best, stream);
}

// 32 channels a chunk where they are used up, in half precision; the same bytes in float32 are 16.
template <class T>
cudaError_t launch_forward_as(const DwconvForward& p, cudaStream_t stream, bool* ran) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error != cudaSuccess) return error;
  const bool aligned = is_aligned16(p.c, sizeof(T), p.x, p.y, p.z, p.addend);
  if constexpr (sizeof(T) == 2) {
    if (p.c % 32 == 0) return launch_forward_chunks<T, 32>(p, device, aligned, stream, ran);
  }
  return launch_forward_chunks<T, 16>(p, device, aligned, stream, ran);
}

}  // namespace cnv2
