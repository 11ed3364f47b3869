#include <cstring>

#include "cpu/block/block.h"
#include "cpu/common/dtype_switch.h"
#include "cpu/patch_conv/patch_conv.h"
#include "model.h"

namespace cnv2 {
namespace {

constexpr int64_t kLine = 64 / sizeof(float);

// The steps of a plan with their offsets; `floats`: of the program.
std::vector<Step> laid_out(CpuIsa isa, DType dtype, const std::vector<PlannedStep>& plan, int64_t* floats) {
  std::vector<Step> steps;
  int64_t at = first_offset(static_cast<int64_t>(plan.size()));
  for (const PlannedStep& planned : plan) {
    Step step = planned.step;
    at = lay_out(isa, dtype, at, &step);
    steps.push_back(step);
  }
  *floats = at;
  return steps;
}

void copy_vector(const ConstArray& from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from.data == nullptr ? 0.f : float_at(from, i);
}

void pack_patches(CpuIsa isa, DType dtype, const Step& step, const ConstArray& weight, const ConstArray& bias,
                  float* packed, const Parallel& parallel) {
  PatchWeight w{};
  w.data = weight, w.bias = bias;
  w.activations = operand_dtype(dtype, step);
  w.k = step.k, w.c_in = step.c_in, w.c_out = step.c_out;
  w.kx_stride = 1, w.ky_stride = step.k, w.c_in_stride = step.k * step.k, w.c_out_stride = w.depth();
  patch_conv_cpu(isa).pack(w, packed, parallel);
}

void pack_whole_block(CpuIsa isa, DType dtype, const Step& step, const ConstArray* w, float* packed, float* gamma,
                      const Parallel& parallel) {
  const int64_t c = step.c_in;
  const StridedArray kernel{w[0], 4, {c, 1, 7, 7}, {49, 49, 7, 1}};
  pack_block(block_kind(isa, dtype), {c, step.hidden, kernel, w[1], w[2], w[3], w[4], w[5], w[7], w[8], w[9], w[10]},
             packed, parallel);
  copy_vector(w[6], step.hidden, gamma);
}

}  // namespace

int64_t program_floats(CpuIsa isa, DType dtype, const std::vector<PlannedStep>& plan) {
  int64_t floats = 0;
  laid_out(isa, dtype, plan, &floats);
  return floats;
}

void pack_program(CpuIsa isa, DType dtype, const std::vector<PlannedStep>& plan, float* memory,
                  const Parallel& parallel) {
  int64_t floats = 0;
  const std::vector<Step> steps = laid_out(isa, dtype, plan, &floats);
  std::memset(memory, 0, static_cast<size_t>(floats) * sizeof(float));
  const ProgramHeader header{
      ProgramHeader::kMagic, ProgramHeader::kVersion, isa, dtype, static_cast<int64_t>(steps.size()), floats, {}};
  std::memcpy(memory, &header, sizeof(header));
  std::memcpy(memory + kLine, steps.data(), steps.size() * sizeof(Step));
  for (size_t i = 0; i < plan.size(); ++i) {
    const Step& step = steps[i];
    const ConstArray* w = plan[i].weights;
    float *packed = memory + step.packed, *vectors = memory + step.vectors;
    if (step.kind == StepKind::kBlock) {
      pack_whole_block(isa, dtype, step, w, packed, vectors, parallel);
      continue;
    }
    const bool product = step.kind == StepKind::kPatchConv || step.kind == StepKind::kLinear;
    if (product) pack_patches(isa, dtype, step, w[0], w[1], packed, parallel);
    const int64_t count = step_vector_floats(step) / 2;
    if (count == 0) continue;
    copy_vector(w[product ? 2 : 0], count, vectors);
    copy_vector(w[product ? 3 : 1], count, vectors + count);
  }
}

}  // namespace cnv2
