#include "run.h"

#include <algorithm>

#include "cpu/common/isa.h"
#include "cpu/common/scratch.h"

namespace cnv2 {
namespace {

// Waking a thread costs microseconds: each is given at least this much to do.
constexpr int64_t kPackedFloatsPerThread = 32 * 1024;
constexpr int64_t kMultiplyAddsPerThread = 256 * 1024;

void run_tiles(const DwconvCpu& cpu, const DwconvForward& p, const DwconvCpuTiling& t, const float* packed,
               const Parallel& parallel) {
  const int64_t tile_work = t.rows * t.columns * p.c * kDwconvTaps;
  parallel(0, t.tiles, kMultiplyAddsPerThread / tile_work + 1, [&](int64_t begin, int64_t end) {
    cpu.run(p, t, packed, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
}

}  // namespace

void run_dwconv(const DwconvForward& p, const Parallel& parallel) {
  const DwconvCpu& cpu = dwconv_cpu(current_cpu_isa());
  const DwconvCpuTiling t = cpu.tiling(p, parallel.threads);
  if (t.tiles == 0) return;
  float* packed = thread_scratch(ScratchSlot::kParameters, t.packed_floats);
  parallel(0, t.blocks, kPackedFloatsPerThread / (t.packed_floats / t.blocks) + 1,
           [&](int64_t begin, int64_t end) { cpu.pack(p, packed, begin, end); });
  run_tiles(cpu, p, t, packed, parallel);
}

void run_dwconv(const DwconvCpu& cpu, const DwconvForward& p, const float* packed, const Parallel& parallel) {
  run_tiles(cpu, p, cpu.tiling(p, parallel.threads), packed, parallel);
}

int64_t dwconv_partial_floats(const DwconvBackward& p) {
  const int64_t slabs = dwconv_cpu(current_cpu_isa()).sums_tiling(p).slabs;
  return slabs > 1 ? slabs * kDwconvSums * p.c : 0;
}

void run_dwconv_sums(DwconvBackward p, float* out, const Parallel& parallel) {
  const DwconvCpu& cpu = dwconv_cpu(current_cpu_isa());
  const DwconvSumsTiling t = cpu.sums_tiling(p);
  const int64_t count = kDwconvSums * p.c;
  if (t.slabs == 1) p.partial = out;
  const int64_t task_work = (t.tiles / t.slabs + 1) * t.rows * t.columns * (p.c / t.groups + 1) * kDwconvTaps;
  parallel(0, t.slabs * t.groups, kMultiplyAddsPerThread / (task_work + 1) + 1, [&](int64_t begin, int64_t end) {
    cpu.sums(p, t, thread_scratch(ScratchSlot::kTile, t.scratch_floats), begin, end);
  });
  if (t.slabs == 1) return;
  parallel(0, count, kPackedFloatsPerThread, [&](int64_t begin, int64_t end) {
    std::copy(p.partial + begin, p.partial + end, out + begin);
    for (int64_t slab = 1; slab < t.slabs; ++slab) {
      for (int64_t i = begin; i < end; ++i) out[i] += p.partial[slab * count + i];
    }
  });
}

}  // namespace cnv2
