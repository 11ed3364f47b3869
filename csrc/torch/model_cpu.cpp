// The operators of frozen models: one that packs a whole model into a program, one that runs it.
#include "cpu/model/model.h"

#include <string>
#include <vector>

#include "cpu/common/isa.h"
#include "parallel_cpu.h"
#include "register_cpu.h"

namespace cnv2 {
namespace {

using Ints = std::vector<int64_t>;
using Tensors = std::vector<Tensor>;

// ---- packing --------------------------------------------------------------------------------------------------------

// A step of the plan from its weights; `w`: the first of them, as model.h lists them, absent ones of no element.
class PlanReader {
 public:
  explicit PlanReader(const Tensor* w) : w_(w) {}

  PlannedStep read(int64_t kind, int64_t norm, double eps, double grn_eps) {
    PlannedStep planned{};
    Step& step = planned.step;
    step.kind = static_cast<StepKind>(kind), step.norm = static_cast<NormPlace>(norm);
    step.k = 1;
    step.eps = static_cast<float>(eps), step.grn_eps = static_cast<float>(grn_eps);
    switch (step.kind) {
      case StepKind::kPatchConv:
        patches(step);
        break;
      case StepKind::kBlock:
        block(step);
        break;
      case StepKind::kLinear:
        need(w_[0].dim() == 2 && w_[0].numel() > 0, 0);
        step.c_out = w_[0].size(0), step.c_in = w_[0].size(1);
        vectors({1}, step.c_out, true);
        break;
      default:
        step.c_in = step.c_out = w_[0].numel();
        if (step.norm != NormPlace::kNone) vectors({1}, step.c_in, false);
    }
    for (int i = 0; i < planned_weights(step.kind); ++i) {
      need(dtype_of(w_[i]).has_value() && w_[i].is_contiguous(), i);
      if (w_[i].numel() > 0) planned.weights[i] = array_of(w_[i]);
    }
    return planned;
  }

 private:
  void need(bool ok, int i) const {
    if (!ok)
      refuse("model_cpu_pack", "a step's weights must fit, be contiguous, and float32, bfloat16 or float16",
             describe("weight", w_[i]));
  }
  void vectors(std::initializer_list<int> which, int64_t count, bool optional) const {
    for (int i : which) need(w_[i].numel() == count || (optional && w_[i].numel() == 0), i);
  }
  void patches(Step& step) const {
    need(w_[0].dim() == 4 && w_[0].size(2) == w_[0].size(3) && w_[0].numel() > 0, 0);
    step.c_out = w_[0].size(0), step.c_in = w_[0].size(1), step.k = w_[0].size(2);
    vectors({1}, step.c_out, true);
    if (step.norm != NormPlace::kNone) vectors({2, 3}, step.norm == NormPlace::kBefore ? step.c_in : step.c_out, false);
  }
  void block(Step& step) const {
    need(w_[4].dim() == 2 && w_[4].numel() > 0, 4);
    const int64_t c = w_[4].size(1), hidden = w_[4].size(0);
    step.c_in = step.c_out = c, step.hidden = hidden;
    need(w_[0].numel() == c * kDwconvTaps, 0);
    need(w_[8].dim() == 2 && w_[8].size(0) == c && w_[8].size(1) == hidden, 8);
    vectors({2, 3, 9}, c, false);
    vectors({5, 6, 7}, hidden, false);
    vectors({1}, c, false);
    vectors({10}, c, true);
  }

  static constexpr int64_t kDwconvTaps = 49;
  const Tensor* w_;
};

// plan: (kind, place of the norm) of each step; eps: (LayerNorm's, GRN's) of each.
Tensor model_cpu_pack(Ints plan, std::vector<double> eps, Tensors weights, int64_t dtype) {
  const char* op = "model_cpu_pack";
  if (plan.empty() || plan.size() % 2 != 0 || eps.size() != plan.size() || weights.empty() || dtype < 0 || dtype > 2)
    refuse(op, "wants two numbers of each step in plan and in eps, weights, and a dtype of 0, 1 or 2",
           std::to_string(plan.size()) + " numbers");
  std::vector<PlannedStep> steps;
  size_t next = 0;
  for (size_t i = 0; i < plan.size(); i += 2) {
    if (plan[i] < 0 || plan[i] >= static_cast<int64_t>(StepKind::kCount) || plan[i + 1] < 0 || plan[i + 1] > 2)
      refuse(op, "the plan must be of known steps", std::to_string(plan[i]));
    const size_t count = static_cast<size_t>(planned_weights(static_cast<StepKind>(plan[i])));
    if (weights.size() - next < count) refuse(op, "the plan needs more weights", std::to_string(weights.size()));
    steps.push_back(PlanReader(weights.data() + next).read(plan[i], plan[i + 1], eps[i], eps[i + 1]));
    next += count;
  }
  if (next != weights.size()) refuse(op, "the plan needs fewer weights", std::to_string(weights.size()));
  const CpuIsa isa = current_cpu_isa();
  const int64_t count = program_floats(isa, static_cast<DType>(dtype), steps);
  Tensor program = floats(weights[0], {count});
  pack_program(isa, static_cast<DType>(dtype), steps, float_data(program), torch_parallel());
  const std::string fault = program_fault(isa, float_data(program), count);
  if (!fault.empty()) refuse(op, "the steps must fit each other", fault);
  return program;
}

// ---- running --------------------------------------------------------------------------------------------------------

// An output as Python describes it, so that its shape can be told without a program: src/convnextv2_fast/frozen/op.py.
struct Wanted {
  static constexpr size_t kNumbers = 4;
  int64_t step, map, channels, reduction;
};

Tensors model_cpu_fwd(const Tensor& image, const Tensor& program, Ints numbers, int64_t start) {
  const char* op = "model_cpu_fwd";
  const auto need = [&](bool ok, const std::string& wants) {
    if (!ok) refuse(op, wants, describe("image", image));
  };
  const auto* memory = static_cast<const float*>(program.const_data_ptr());
  const bool flat = program.dim() == 1 && program.scalar_type() == ScalarType::Float && program.is_contiguous();
  const std::string fault = program_fault(current_cpu_isa(), memory, flat ? program.numel() : 0);
  need(fault.empty(), "the frozen model's program cannot run here: " + fault +
                          ". Call convnextv2_fast.freeze(model) again in this process");
  const Program steps(memory);
  need(start >= 0 && start < steps.steps() && (start == 0 || makes_map(steps.step(start - 1).kind)),
       "start must be a step that takes a map");
  const int64_t channels = steps.step(start).c_in;
  need(image.dim() == 4 && dtype_of(image).has_value() && *dtype_of(image) == steps.header().dtype &&
           image.size(1) == channels,
       "wants images [N, " + std::to_string(channels) + ", H, W] in the dtype of the frozen model");
  ModelForward p{};
  p.memory = memory, p.start = start;
  p.image = array_of(image);
  p.n = image.size(0), p.h = image.size(2), p.w = image.size(3);
  p.sample_stride = image.stride(0), p.channel_stride = image.stride(1);
  p.row_stride = image.stride(2), p.pixel_stride = image.stride(3);
  const auto is = [](int64_t size, int64_t stride, int64_t wanted) { return size == 1 || stride == wanted; };
  const bool rows = is(channels, p.channel_stride, 1) && is(p.w, p.pixel_stride, channels) &&
                    is(p.h, p.row_stride, p.w * channels) && is(p.n, p.sample_stride, p.h * p.w * channels);
  need(rows || steps.step(start).kind == StepKind::kPatchConv || image.numel() == 0,
       "wants maps [N, C, H, W] with the strides of channels_last");
  need(!numbers.empty() && numbers.size() % Wanted::kNumbers == 0, "wants four numbers for each output");
  Tensors results;
  for (size_t i = 0; i < numbers.size(); i += Wanted::kNumbers) {
    const Wanted wanted{numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]};
    need(wanted.step >= start && wanted.step < steps.steps(), "there is no such step");
    const Step& step = steps.step(wanted.step);
    const PlaneSize plane = plane_of(steps, start, wanted.step, {p.h, p.w});
    need(plane.h > 0 && plane.w > 0, "the image is smaller than one position of the last map");
    const bool same_plane = wanted.map == 0 || (wanted.reduction >= 1 && plane.h == p.h / wanted.reduction &&
                                                plane.w == p.w / wanted.reduction);
    need(makes_map(step.kind) == (wanted.map != 0) && step.c_out == wanted.channels && same_plane,
         "an output is not that of its step");
    for (const ModelOutput& other : p.outputs) need(other.step != wanted.step, "an output is there twice");
    results.push_back(wanted.map != 0 ? empty(image, {p.n, plane.h, plane.w, step.c_out}, image.scalar_type())
                                      : empty(image, {p.n, step.c_out}, image.scalar_type()));
    p.outputs.push_back({wanted.step, results.back().mutable_data_ptr()});
  }
  run_model(p, torch_parallel_in(false));
  return results;
}

}  // namespace
}  // namespace cnv2

CNV2_CPU_OPERATORS(m) {
  m.add<&cnv2::model_cpu_pack>("model_cpu_pack");
  m.add<&cnv2::model_cpu_fwd>("model_cpu_fwd");
}
