#include "dwconv_layer_norm_cpu.h"

#include "cpu/dwconv_layer_norm/dwconv_layer_norm.h"
#include "cpu/isa.h"
#include "cpu/scratch.h"

namespace cnv2 {

void run_dwconv_layer_norm_cpu(const Tensor&, const DwconvLayerNormParams& p) {
  const DwconvLayerNormCpu& cpu = dwconv_layer_norm_cpu(current_cpu_isa());
  const DwconvLayerNormTiling t = cpu.tiling(p, torch::stable::get_num_threads());
  float* packed = thread_scratch(ScratchSlot::kParameters, t.packed_floats);
  // Waking a thread costs microseconds: give each at least that much to do.
  constexpr int64_t kPackedFloatsPerThread = 32 * 1024;
  constexpr int64_t kMultiplyAddsPerThread = 256 * 1024;
  const int64_t block_floats = t.packed_floats / t.blocks;
  torch::stable::parallel_for(0, t.blocks, kPackedFloatsPerThread / block_floats + 1,
                              [&](int64_t begin, int64_t end) { cpu.pack(p, packed, begin, end); });
  const int64_t tile_work = t.rows * t.columns * p.c * kTaps;
  torch::stable::parallel_for(0, t.tiles, kMultiplyAddsPerThread / tile_work + 1, [&](int64_t begin, int64_t end) {
    cpu.run(p, t, packed, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
}

}  // namespace cnv2
