// A whole frozen model on CPUs: packing it into a program, and running the program. No framework header.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/common/array.h"
#include "cpu/common/parallel.h"
#include "program.h"

namespace cnv2 {

// A step to be packed; its offsets are not set yet. Arrays are contiguous, absent ones null:
//   patch convolution: weight [c_out, c_in, k, k], bias, norm weight, norm bias;
//   block: kernel [C, 1, 7, 7], bias, norm weight, norm bias, w1 [K, C], b1, gamma, beta, w2 [C, K], b2, layer scale;
//   linear: weight [c_out, c_in], bias;
//   norms of the map, pooling: norm weight, norm bias. Without a norm, and for GELU, the first array's size alone
//   counts.
struct PlannedStep {
  static constexpr int kMostWeights = 11;
  Step step;
  ConstArray weights[kMostWeights];
};

// How many weights a kind of step has in a plan.
constexpr int planned_weights(StepKind kind) {
  return kind == StepKind::kBlock ? 11 : kind == StepKind::kPatchConv ? 4 : 2;
}

// The floats of a program of these steps.
int64_t program_floats(CpuIsa isa, DType dtype, const std::vector<PlannedStep>& plan);
// Writes the program, for maps of `dtype`.
void pack_program(CpuIsa isa, DType dtype, const std::vector<PlannedStep>& plan, float* memory,
                  const Parallel& parallel);

// The result of a step, as an output of the program's dtype: a map [N, H, W, C] or a vector [N, C].
struct ModelOutput {
  int64_t step;
  void* data;
};

struct ModelForward {
  const float* memory;  // of a program without fault
  int64_t start;        // the first step to run
  // In the program's dtype, with the channels that this step takes. For a step other than a patch convolution,
  // contiguous [N, H, W, C].
  ConstArray image;
  int64_t n, h, w;
  int64_t sample_stride, channel_stride, row_stride, pixel_stride;  // of the image, in elements
  std::vector<ModelOutput> outputs;                                 // each of another step
};

// The height and width of a step's map, from those of the image that step `start` takes; 0 where that is too small.
struct PlaneSize {
  int64_t h, w;
};
PlaneSize plane_of(const Program& program, int64_t start, int64_t step, PlaneSize image);

// Runs the steps from `start` on that the outputs need. Each must have a plane of at least one position. A sample's
// results depend neither on the others nor on the number of threads.
void run_model(const ModelForward& p, const Parallel& parallel);

}  // namespace cnv2
