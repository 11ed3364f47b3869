// The gradients of taps and bias on the tensor cores, for dense planes in 16-bit precision.
//
// Per channel and column s of the kernel, D_s[m, n] = sum over columns k of X[m, k + s] dY[n, k]: all products of the
// 13 input rows of a slot with its 7 output rows. Row r of the kernel is the sum of the diagonal m = n + r; the other
// entries are by-products. Two slots share a product of 16 columns, 8 each. Where X[m, k + s] begins in the middle of a
// word, two words make one. D_7 takes ones for X: the bias. The sums stay in registers until the block has had all its
// slots.
//
// A group of 2 slots is 56 warps' worth of outputs of 16 channels. For it each of 8 warps issues 219 instructions
// (sm_80; sm_90 216, sm_120 228), 16 of them products: 31 an output. Wavefronts of shared memory: 288 to load, up to
// 256 to stage: 10 an output. Every slot loads 13 * 14 sites of x and 56 of dy, 4.3 loads per site.
#pragma once

#include "mma_slots.cuh"

namespace cnv2 {

constexpr int kTapSlots = 2;   // slots of a group
constexpr int kTapPitch = 12;  // words of a row of x: 8 rows begin in different banks
constexpr int kTapInputs = kMmaInputRows * kTapPitch;
constexpr int kTapPlane = kTapInputs + kMmaRows * kMmaColumns / 2;  // words of a channel of a slot: x, then dy
// The products take rows 13 to 15 of x and 7 of dy too, but nobody asks for what becomes of them: they are what
// follows, after the last plane a row of nothing.
constexpr int kTapStage = kTapSlots * kMmaChannels * kTapPlane + kMmaColumns / 2;
constexpr int kTapShared = 2 * kTapStage * 4;
constexpr int kTapMatrix = 16 * 8, kTapMatrices = kDwconvSide + 1;
static_assert(kTapShared >= kMmaThreads / 32 * kTapMatrices * kTapMatrix * 4, "the sums take the stages' place");

// What a thread stages of its slot in every group: two columns of 8 channels, either of x or of dy.
template <class T>
struct TapCopy {
  const T* __restrict__ from;  // [T, C]: x or dy
  int row, column;             // where the left column is, counted from the slot's first output
  int word;                    // where it goes in the stage
  int channel;

  __device__ TapCopy(const DwconvBackward& p, int slot, int number, int c0) {
    constexpr int kPairs = kDwconvSide, kGradPairs = kMmaColumns / 2, kInputs = kMmaInputRows * kPairs;
    const int vector = number % 2, place = number / 2, in_dy = place - kInputs;
    const bool is_x = in_dy < 0;
    from = static_cast<const T*>(is_x ? p.x : p.dy);
    row = is_x ? place / kPairs - kDwconvPad : in_dy / kGradPairs;
    column = is_x ? place % kPairs * 2 - kDwconvPad : in_dy % kGradPairs * 2;
    word = (slot * kMmaChannels + vector * 8) * kTapPlane +
           (is_x ? place / kPairs * kTapPitch + place % kPairs : kTapInputs + in_dy);
    channel = c0 + vector * 8;
    if (row >= kMmaRows && !is_x) word = -1;  // nothing left to stage
  }

  __device__ void load(const DwconvBackward& p, const MmaSlot& slot, uint4 (&to)[2]) const {
    const int y = slot.band * kMmaRows + row, x = slot.tile * kMmaColumns + column;
    const auto h = static_cast<unsigned>(p.plane.h), w = static_cast<unsigned>(p.plane.w);
    const bool live = word >= 0 && static_cast<unsigned>(y) < h && slot.n < p.plane.n && channel < p.c;
    const T* const at = from + ((int64_t{slot.n} * p.plane.h + y) * p.plane.w + x) * p.c + channel;
    to[0] = to[1] = uint4{0, 0, 0, 0};
    if (live && static_cast<unsigned>(x) < w) to[0] = *reinterpret_cast<const uint4*>(at);
    if (live && static_cast<unsigned>(x + 1) < w) to[1] = *reinterpret_cast<const uint4*>(at + p.c);
  }

  __device__ void store(unsigned* stage, const uint4 (&value)[2]) const {
    if (word >= 0) store_planes<kTapPlane>(stage + word, value);
  }
};

// Adds a group's products of one channel. `plane` is that of the first slot; the second's is kMmaChannels planes on.
template <class T>
__device__ __forceinline__ void add_products(const unsigned* plane, int lane, float (&acc)[kTapMatrices][4]) {
  constexpr int kOther = kMmaChannels * kTapPlane;
  const int g = lane / 4, t = lane % 4;
  unsigned x[4][4], b[2];  // x[i]: the words t + i of rows g and g + 8 of both slots
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int k = 0; k < 4; ++k) x[i][k] = plane[k / 2 * kOther + (g + k % 2 * 8) * kTapPitch + t + i];
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) b[k] = plane[k * kOther + kTapInputs + g * (kMmaColumns / 2) + t];
#pragma unroll
  for (int s = 0; s < kDwconvSide; ++s) {
    unsigned a[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) a[k] = s % 2 == 0 ? x[s / 2][k] : straddle(x[s / 2][k], x[s / 2 + 1][k]);
    mma_m16n8k16<T>(acc[s], a, b);
  }
  const unsigned one = pack_pair<T>(1.0f, 1.0f), ones[4] = {one, one, one, one};
  mma_m16n8k16<T>(acc[kDwconvSide], ones, b);
}

// The grid has blocks that share the groups of slots (x) and chunks of 16 channels (y).
template <class T>
__global__ void __launch_bounds__(kMmaThreads, kMmaResident)
    dwconv_taps_mma_kernel(const DwconvBackward p, const MmaGrid grid) {
  CNV2_SHARED(shared);
  unsigned* const stages = reinterpret_cast<unsigned*>(shared);  // [2, kTapStage]
  float* __restrict__ const partial = p.partial;                 // [blocks, 50, C]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c0 = blockIdx.y * kMmaChannels;
  constexpr int kThreads = kMmaThreads / kTapSlots;  // threads of a slot; two copies each are enough
  const int slot = threadIdx.x / kThreads, thread = threadIdx.x % kThreads;
  const TapCopy<T> first(p, slot, thread, c0), second(p, slot, thread + kThreads, c0);
  MmaSlot here(grid, blockIdx.x * kTapSlots + slot);

  uint4 staged[2];
  first.load(p, here, staged);
  first.store(stages, staged);
  second.load(p, here, staged);
  second.store(stages, staged);
  __syncthreads();
  float acc[2][kTapMatrices][4] = {};
  int stage = 0;
#pragma unroll 1
  for (int group = blockIdx.x; group < grid.groups; group += gridDim.x) {
    const unsigned* const plane = stages + stage * kTapStage + 2 * warp * kTapPlane;
    stage = 1 - stage;
    unsigned* const next = stages + stage * kTapStage;
    here.advance(grid);
    first.load(p, here, staged);
    add_products<T>(plane, lane, acc[0]);
    first.store(next, staged);
    second.load(p, here, staged);
    add_products<T>(plane + kTapPlane, lane, acc[1]);
    second.store(next, staged);
    __syncthreads();
  }

  float* const sums = reinterpret_cast<float*>(shared) + warp * kTapMatrices * kTapMatrix;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int s = 0; s < kTapMatrices; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[s * kTapMatrix + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[k][s][i];
    }
    __syncwarp();
    const int channel = c0 + 2 * warp + k;
    for (int i = lane; i < kDwconvSums && channel < p.c; i += 32) {
      const int s = i / kDwconvSide, r = i < kDwconvTaps ? i % kDwconvSide : 0;
      float sum = 0.0f;
      for (int n = 0; n < kMmaRows; ++n) sum += sums[s * kTapMatrix + (n + r) * 8 + n];
      partial[(int64_t{blockIdx.x} * kDwconvSums + i) * p.c + channel] = sum;
    }
    __syncwarp();
  }
}

}  // namespace cnv2
