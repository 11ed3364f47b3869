#include "program.h"

#include "cpu/block/block.h"
#include "cpu/common/isa.h"
#include "cpu/patch_conv/patch_conv.h"

namespace cnv2 {
namespace {

constexpr int64_t kLine = sizeof(Step) / sizeof(float);
// The largest sizes of a step. The products that are made of them, of two of channels and of k * k, have 52 bits.
constexpr int64_t kMostChannels = int64_t{1} << 20, kMostHidden = int64_t{1} << 24, kMostKernel = 64;

int64_t whole_lines(int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

PatchWeight patch_sizes(DType dtype, const Step& step) {
  PatchWeight w{};
  w.activations = operand_dtype(dtype, step);
  w.k = step.k, w.c_in = step.c_in, w.c_out = step.c_out;
  return w;
}

// Whether the sizes of a step are such that nothing computed from them overflows.
bool sizes_are_sound(const Step& s) {
  const auto fits = [](int64_t size, int64_t most) { return size >= 1 && size <= most; };
  if (s.kind < StepKind::kPatchConv || s.kind >= StepKind::kCount || s.norm < NormPlace::kNone ||
      s.norm > NormPlace::kAfter || !fits(s.c_in, kMostChannels) || !fits(s.c_out, kMostChannels) ||
      !fits(s.k, kMostKernel))
    return false;
  if (s.kind == StepKind::kBlock && !fits(s.hidden, kMostHidden)) return false;
  if ((s.kind == StepKind::kNorm || s.kind == StepKind::kOutputNorm) && s.norm != NormPlace::kAfter) return false;
  return s.kind == StepKind::kPatchConv || (s.k == 1 && (s.kind == StepKind::kLinear || s.c_in == s.c_out));
}

}  // namespace

int64_t step_packed_floats(CpuIsa isa, DType dtype, const Step& step) {
  switch (step.kind) {
    case StepKind::kPatchConv:
    case StepKind::kLinear:
      return patch_conv_cpu(isa).packed_floats(patch_sizes(dtype, step));
    case StepKind::kBlock:
      return block_packed_floats(block_kind(isa, dtype), step.c_in, step.hidden);
    default:
      return 0;
  }
}

int64_t step_vector_floats(const Step& step) {
  if (step.kind == StepKind::kBlock) return step.hidden;
  if (step.norm == NormPlace::kNone) return 0;
  return 2 * (step.norm == NormPlace::kBefore ? step.c_in : step.c_out);
}

int64_t first_offset(int64_t steps) { return kLine * (1 + steps); }

int64_t lay_out(CpuIsa isa, DType dtype, int64_t at, Step* step) {
  step->packed = at;
  step->vectors = step->packed + whole_lines(step_packed_floats(isa, dtype, *step));
  return step->vectors + whole_lines(step_vector_floats(*step));
}

std::string program_fault(CpuIsa isa, const float* memory, int64_t count) {
  if (count < kLine) return "it holds no program";
  const Program program(memory);
  const ProgramHeader& h = program.header();
  if (h.magic != ProgramHeader::kMagic || h.dtype < DType::kFloat32 || h.dtype > DType::kFloat16)
    return "it holds no program";
  if (h.version != ProgramHeader::kVersion) return "another version of this library froze it";
  if (h.isa < CpuIsa::kScalar || h.isa > CpuIsa::kAmx) return "it holds no program";
  if (h.isa != isa)
    return std::string("it was frozen for the instruction set ") + isa_name(h.isa) + ", and this process uses " +
           isa_name(isa);
  if (h.floats != count || h.steps < 1 || h.steps > count / kLine - 1) return "it is cut off or too long";
  const char* kBroken = "a step in it is broken";
  bool vector = false;
  int64_t channels = program.step(0).c_in, at = first_offset(h.steps);
  for (int64_t i = 0; i < h.steps; ++i) {
    const Step& s = program.step(i);
    if (!sizes_are_sound(s) || s.c_in != channels || vector != (s.kind > StepKind::kPool)) return kBroken;
    Step laid = s;
    at = lay_out(isa, h.dtype, at, &laid);
    if (at > count || laid.packed != s.packed || laid.vectors != s.vectors) return kBroken;
    vector = !makes_map(s.kind);
    channels = s.c_out;
  }
  if (at != count) return kBroken;
  return {};
}

}  // namespace cnv2
