// The depthwise convolution of dense planes in 16-bit precision, on the tensor cores.
//
// Per channel and row r of the kernel, Y[m, 8 columns] += X[m, 16 columns] T_r: T_r is the banded matrix of the row's
// taps, T_r[k][n] = w[r][k - n], and m runs over 16 slots that have nothing to do with each other: pieces of 7 rows x 8
// columns, anywhere in the batch. Sweeping down the 13 input rows of its slots, a warp loads the matrix X of a row once
// and multiplies it by each T_r that an output row of the slot needs: 49 products on 13 loads.
//
// Rows come from global memory as 16-byte vectors, 8 channels of a site, and go to shared memory as one plane per
// channel of words that hold two adjacent columns; results go back the same way. Neighbouring slots load their halos
// each for itself: 13 * 14 / 56 = 3.3 loads per site, of which the columns' share, 1.75, mostly hits L1.
//
// A group of 16 slots is 448 warps' worth of outputs of 16 channels. For it each of 8 warps issues 805 instructions
// (sm_80; sm_90 835, sm_120 926), 98 of them products: 14 to 17 an output, where the multiply-adds of
// forward_kernel.cuh take 64. Wavefronts of shared memory: 832 to stage, 832 to load, 448 for results: 4.7 an output.
// No two lanes meet in a bank. Of a product's 16 terms 7 count.
//
// Pointers have no __restrict__: with it a row takes more instructions.
//
// A value that is not finite spoils the slot's whole row: 0 * inf in the matrix where the sum has no term at all.
#pragma once

#include "mma_slots.cuh"

namespace cnv2 {

constexpr int kMmaSlots = 16;   // slots of a group
constexpr int kMmaPlane = 128;  // words: 16 slots x 8
// Words of shared memory: planes of inputs, a channel each, and of results, a pair of channels each; both twice, for
// the step that writes and the step that reads. The second vector's planes start in the other half of the banks.
constexpr int kMmaShift = 16;
constexpr int kMmaInputs = kMmaChannels * kMmaPlane + kMmaShift, kMmaResults = kMmaInputs / 2 + kMmaShift / 2;
constexpr int kMmaShared = 2 * (kMmaInputs + kMmaResults) * 4 + kMmaChannels * 4;

// What one thread stages of its slot, row after row: two columns of 8 channels.
template <class T>
struct MmaWindow {
  int64_t at;  // where the left column is in the next row
  int y;
  bool left, right;  // whether each column is inside the plane

  __device__ MmaWindow(const DwconvForward& p, const MmaSlot& slot, int pair, int channel) {
    const int x = slot.tile * kMmaColumns - kDwconvPad + 2 * pair, w = p.plane.w, c = static_cast<int>(p.c);
    y = slot.band * kMmaRows - kDwconvPad;
    at = ((int64_t{slot.n} * p.plane.h + y) * w + x) * c + channel;
    const bool live = slot.n < p.plane.n && channel < c && pair < 7;  // no tap reaches the last two columns
    left = live && x >= 0 && x < w;
    right = live && x + 1 >= 0 && x + 1 < w;
  }

  __device__ void load_next(const DwconvForward& p, uint4 (&to)[2]) {
    const T* const from = static_cast<const T*>(p.x) + at;
    const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(p.plane.h);
    to[0] = to[1] = uint4{0, 0, 0, 0};
    if (inside && left) to[0] = *reinterpret_cast<const uint4*>(from);
    if (inside && right) to[1] = *reinterpret_cast<const uint4*>(from + p.c);
    at += p.plane.w * p.c;
    ++y;
  }
};

// The fragments of T_r of one channel for all r. Lane t of 4 holds k from 4t to 4t + 3, an order that X shares, so that
// X's fragment is 16 adjacent bytes.
template <class T>
__device__ inline void load_bands(const DwconvForward& p, int channel, int lane, unsigned (&to)[kDwconvSide][2]) {
  const int first = lane % 4 * 4 - lane / 4, c = static_cast<int>(p.c);
#pragma unroll
  for (int r = 0; r < kDwconvSide; ++r) {
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = first + i, tap = k * kDwconvSide + r;
      const bool live = k >= 0 && k < kDwconvSide && channel < c;
      value[i] = live ? p.taps[(p.flipped ? kDwconvTaps - 1 - tap : tap) * c + channel] : 0.0f;
    }
    to[r][0] = pack_pair<T>(value[0], value[1]);
    to[r][1] = pack_pair<T>(value[2], value[3]);
  }
}

// Adds the vectors at `addend` and `value`.
template <class T>
__device__ inline uint4 add_vectors(const T* addend, const uint4& value) {
  constexpr int kCount = kWide<T>;
  Vector<T, kCount> sum;
  sum.word = value;
  float v[kCount], other[kCount];
  unpack_vector(sum, v);
  load_vector<kCount>(addend, other);
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] += other[i];
  return pack_vector<T>(v).word;
}

// The grid has blocks that share the groups of slots (x) and chunks of 16 channels (y). kAdd: p.addend is added.
template <class T, bool kAdd>
__global__ void __launch_bounds__(kMmaThreads, kMmaResident)
    dwconv_forward_mma_kernel(const DwconvForward p, const MmaGrid grid) {
  CNV2_SHARED(shared);
  unsigned* const inputs = reinterpret_cast<unsigned*>(shared);  // [2, kMmaInputs]
  unsigned* const results = inputs + 2 * kMmaInputs;             // [2, kMmaResults]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = static_cast<int>(p.c);
  // To stage and to store, a thread has a vector of 8 channels and, of a slot, a pair of columns or one column of
  // results. Its word in a plane lies where the matrix instructions' lane (slot % 8, column / 4) takes 4 words at once.
  const int vector = lane % 2, column = lane / 2 % 8, slot = warp + lane / 16 * 8;
  const int channel = blockIdx.y * kMmaChannels + vector * 8;
  const int word = warp * 16 + column * 2 + lane / 16 + vector * kMmaShift;
  // To multiply, a warp has two channels.
  const int pair = blockIdx.y * kMmaChannels + warp * 2;
  const int fragment = lane * 4 + warp / 4 * kMmaShift;

  unsigned bands[2][kDwconvSide][2];
  load_bands<T>(p, pair, lane, bands[0]);
  load_bands<T>(p, pair + 1, lane, bands[1]);
  float* const biases = reinterpret_cast<float*>(results + 2 * kMmaResults);  // here because registers are dear
  if (threadIdx.x < kMmaChannels) {
    const int at = blockIdx.y * kMmaChannels + threadIdx.x;
    biases[threadIdx.x] = p.bias != nullptr && at < c ? load_param(p.bias, p.param_dtype, at) : 0.0f;
  }
  MmaSlot here(grid, blockIdx.x * kMmaSlots + slot);
  MmaWindow<T> window(p, here, column, channel);
  uint4 staged[2];
  window.load_next(p, staged);
  for (int group = blockIdx.x; group < grid.groups; group += gridDim.x) {
    const int y = here.band * kMmaRows, x = here.tile * kMmaColumns + column;
    const int rows = here.n < p.plane.n && x < p.plane.w && channel < c ? p.plane.h - y : 0;  // how many to write
    T* out = static_cast<T*>(p.y) + ((int64_t{here.n} * p.plane.h + y) * p.plane.w + x) * c + channel;
    const auto store_row = [&](int row) {
      const unsigned* const from = results + row % 2 * kMmaResults + vector * 4 * kMmaPlane + word;
      const uint4 value{from[0], from[kMmaPlane], from[2 * kMmaPlane], from[3 * kMmaPlane]};
      if (row < rows) {
        if constexpr (kAdd)
          store_global16(out, add_vectors(static_cast<const T*>(p.addend) + (out - static_cast<T*>(p.y)), value));
        else
          store_global16(out, value);
      }
      out += p.plane.w * p.c;
    };
    here.advance(grid);

    float acc[2][kMmaRows][4] = {};
#pragma unroll
    for (int row = 0; row < kMmaInputRows; ++row) {
      unsigned* const planes = inputs + row % 2 * kMmaInputs;
      store_planes<kMmaPlane>(planes + vector * 8 * kMmaPlane + word, staged);
      if (row + 1 == kMmaInputRows) window = MmaWindow<T>(p, here, column, channel);
      window.load_next(p, staged);
      __syncthreads();
      if (row >= kDwconvSide) store_row(row - kDwconvSide);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const uint4 v = *reinterpret_cast<const uint4*>(planes + (warp * 2 + k) * kMmaPlane + fragment);
        const unsigned a[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int r = 0; r < kDwconvSide; ++r) {
          if (row - r >= 0 && row - r < kMmaRows) mma_m16n8k16<T>(acc[k][row - r], a, bands[k][r]);
        }
      }
      if (row >= kDwconvSide - 1) {  // the bias last: a large one does not cost the sums their low bits
        const int done = row - (kDwconvSide - 1);
        const float bias[2] = {biases[warp * 2], biases[warp * 2 + 1]};
        const auto value = [&](int i) { return pack_pair<T>(acc[0][done][i] + bias[0], acc[1][done][i] + bias[1]); };
        store_shared16(results + done % 2 * kMmaResults + warp * kMmaPlane + fragment,
                       uint4{value(0), value(2), value(1), value(3)});
      }
    }
    __syncthreads();
    store_row(kMmaRows - 1);
  }
}

}  // namespace cnv2
