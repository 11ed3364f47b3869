// What the tensor cores' kernels share: the pieces of the planes they work on, and columns merged to words.
#pragma once

#include "cuda/dwconv/tiling.cuh"

namespace cnv2 {

constexpr int kMmaThreads = 256, kMmaResident = 2;  // kMmaResident: blocks of a processor that the registers allow
constexpr int kMmaChannels = 16;                    // channels of a block, two for each warp
constexpr int kMmaRows = 7, kMmaColumns = 8;        // outputs of a slot, which is a piece of a plane
constexpr int kMmaInputRows = kMmaRows + kDwconvSide - 1;

// How slots are numbered: (image, band of 7 rows, tile of 8 columns). A block takes groups of adjacent slots, every
// gridDim.x-th.
struct MmaGrid {
  int bands, tiles, groups;
  int step_n, step_band, step_tile;  // from a slot to the corresponding one of the block's next group
};

struct MmaSlot {
  int n, band, tile;

  __device__ MmaSlot(const MmaGrid& g, int number) {
    const int per_plane = g.bands * g.tiles, in_plane = number % per_plane;
    n = number / per_plane;
    band = in_plane / g.tiles;
    tile = in_plane % g.tiles;
  }

  __device__ void advance(const MmaGrid& g) {
    tile += g.step_tile;
    band += g.step_band;
    n += g.step_n;
    if (tile >= g.tiles) tile -= g.tiles, ++band;
    if (band >= g.bands) band -= g.bands, ++n;
  }
};

// A launch's blocks and the slots they work on. There are no blocks where there are no slots, or too many for an int.
struct MmaLaunch {
  int64_t blocks = 0, chunks = 0;
  MmaGrid grid{};

  MmaLaunch() = default;
  MmaLaunch(const DwconvPlane& plane, int64_t c, int slots_of_group, const CudaDevice& device) {
    const auto rounded = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t bands = rounded(plane.h, kMmaRows), tiles = rounded(plane.w, kMmaColumns);
    const int64_t slots = plane.n * bands * tiles, groups = rounded(slots, slots_of_group);
    chunks = rounded(c, kMmaChannels);
    if (slots == 0 || slots >= 0x3fffffff || chunks > 0xffff) return;
    const int64_t most = rounded(int64_t{kMmaResident} * device.processors, chunks);
    blocks = rounded(groups, rounded(groups, most));  // as few as do not make any block take more groups
    const int64_t step = blocks * slots_of_group;
    const auto as_int = [](int64_t value) { return static_cast<int>(value); };
    grid = {as_int(bands),
            as_int(tiles),
            as_int(groups),
            as_int(step / (bands * tiles)),
            as_int(step / tiles % bands),
            as_int(step % tiles)};
  }

  dim3 size() const { return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(chunks)); }
};

// How a call starts on the current device; it has no blocks where memory is not `aligned` to 16 bytes.
inline cudaError_t mma_launch(const DwconvPlane& plane, int64_t c, int slots_of_group, bool aligned, MmaLaunch* out) {
  CudaDevice device{};
  const cudaError_t error = cuda_device(&device);
  if (error == cudaSuccess && aligned) *out = MmaLaunch(plane, c, slots_of_group, device);
  return error;
}

// The low halves, or the high halves, of two words as one; the first's is the low one. Written with shifts each would
// take two instructions.
__device__ inline unsigned low_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
__device__ inline unsigned high_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }

// The high half of one word and the low half of the next.
__device__ inline unsigned straddle(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5432); }

// Stores two columns of 8 channels: beside each other in a word, channels kPlane words apart.
template <int kPlane>
__device__ inline void store_planes(unsigned* to, const uint4 (&from)[2]) {
  const unsigned left[4] = {from[0].x, from[0].y, from[0].z, from[0].w};
  const unsigned right[4] = {from[1].x, from[1].y, from[1].z, from[1].w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i * kPlane] = low_halves(left[i], right[i]);
    to[(2 * i + 1) * kPlane] = high_halves(left[i], right[i]);
  }
}

}  // namespace cnv2
