#include <cmath>

#include "cpu/block/block.h"
#include "cpu/common/dtype_switch.h"
#include "cpu/common/scratch.h"
#include "cpu/layer_norm/layer_norm.h"
#include "cpu/mean/mean.h"
#include "cpu/mlp_grn/mlp_grn.h"
#include "cpu/patch_conv/patch_conv.h"
#include "model.h"

namespace cnv2 {
namespace {

// One run of a program. Samples go through all steps some at a time: no more than make the products of the last map
// efficient, so that their maps stay in the cache, and the memory does not grow with the batch.
class ModelRun {
 public:
  ModelRun(const ModelForward& p, const Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        program_(p.memory),
        isa_(program_.header().isa),
        dtype_(program_.header().dtype),
        outputs_(static_cast<size_t>(program_.steps()), nullptr) {
    for (const ModelOutput& output : p.outputs) {
      outputs_[static_cast<size_t>(output.step)] = static_cast<char*>(output.data);
      end_ = output.step + 1 > end_ ? output.step + 1 : end_;
    }
  }

  void run() {
    if (end_ == 0 || p_.n == 0) return;
    const int64_t most = samples_at_once();
    allocate(p_.n < most ? p_.n : most);
    for (first_ = 0; first_ < p_.n; first_ += most) {
      samples_ = p_.n - first_ < most ? p_.n - first_ : most;
      h_ = p_.h, w_ = p_.w;
      map_ = program_.step(p_.start).kind == StepKind::kPatchConv
                 ? nullptr
                 : static_cast<const char*>(p_.image.data) + first_ * p_.sample_stride * item();
      for (int64_t i = p_.start; i < end_; ++i) run_step(i);
    }
  }

 private:
  int64_t item() const { return dtype_ == DType::kFloat32 ? 4 : 2; }
  char* output(int64_t i) const { return outputs_[static_cast<size_t>(i)]; }

  int64_t samples_at_once() const {
    const PlaneSize last = plane_of(program_, p_.start, end_ - 1, {p_.h, p_.w});
    const int64_t most = kMlpGrnChunkRows / (last.h * last.w);
    return most < 1 ? 1 : most;
  }

  // Two maps and two vectors, each step reading one and writing the other. A map that is an output is written there.
  void allocate(int64_t samples) {
    int64_t map = 0, vector = 0;
    PlaneSize plane{p_.h, p_.w};
    for (int64_t i = p_.start; i < end_; ++i) {
      const Step& step = program_.step(i);
      if (!makes_map(step.kind)) {
        vector = step.c_out > vector ? step.c_out : vector;
      } else if (step.kind != StepKind::kOutputNorm) {
        plane = {plane.h / step.k, plane.w / step.k};
        const int64_t bytes = plane.h * plane.w * step.c_out * item();
        map = output(i) == nullptr && bytes > map ? bytes : map;
      }
    }
    const auto lines = [](int64_t bytes) { return (bytes + 63) / 64 * 16; };
    const int64_t map_floats = lines(samples * map), vector_floats = lines(samples * vector * 4);
    float* memory = thread_scratch(ScratchSlot::kModel, 2 * (map_floats + vector_floats));
    for (int64_t half = 0; half < 2; ++half) {
      maps_[half] = memory + half * map_floats;
      vectors_[half] = memory + 2 * map_floats + half * vector_floats;
    }
  }

  void run_step(int64_t i) {
    const Step& step = program_.step(i);
    switch (step.kind) {
      case StepKind::kPatchConv:
        return patches(i, step);
      case StepKind::kBlock:
        return block(i, step);
      case StepKind::kNorm:
      case StepKind::kOutputNorm:
        return map_norm(i, step);
      case StepKind::kPool:
        return pool(i, step);
      case StepKind::kLinear:
        return linear(i, step);
      default:
        return gelu(i, step);
    }
  }

  // Where the map of step i goes, of h x w positions.
  void* map_of(int64_t i, int64_t h, int64_t w, int64_t c) {
    if (output(i) != nullptr) return output(i) + first_ * h * w * c * item();
    turn_ ^= 1;
    return maps_[turn_];
  }

  PatchNorm norm_of(const Step& step, int64_t channels) const {
    const float* at = program_.at(step.vectors);
    return {{at, DType::kFloat32}, {at + channels, DType::kFloat32}};
  }

  void patches(int64_t i, const Step& step) {
    PatchConvForward p{};
    if (map_ == nullptr) {
      p.x = {static_cast<const char*>(p_.image.data) + first_ * p_.sample_stride * item(), dtype_};
      p.sample_stride = p_.sample_stride, p.row_stride = p_.row_stride;
      p.pixel_stride = p_.pixel_stride, p.channel_stride = p_.channel_stride;
    } else {
      p.x = {map_, dtype_};
      p.channel_stride = 1, p.pixel_stride = step.c_in;
      p.row_stride = w_ * step.c_in, p.sample_stride = h_ * w_ * step.c_in;
    }
    p.height = h_, p.width = w_;
    p.k = step.k, p.c_in = step.c_in, p.c_out = step.c_out;
    h_ /= step.k, w_ /= step.k;
    p.rows = samples_ * h_ * w_;
    p.packed = program_.at(step.packed);
    p.before = step.norm == NormPlace::kBefore ? norm_of(step, step.c_in) : PatchNorm{};
    p.after = step.norm == NormPlace::kAfter ? norm_of(step, step.c_out) : PatchNorm{};
    p.eps = step.eps;
    p.y = map_of(i, h_, w_, step.c_out);
    patch_conv_cpu(isa_).run(p, parallel_);
    map_ = p.y;
  }

  void block(int64_t i, const Step& step) {
    BlockForward p{};
    p.n = samples_, p.h = h_, p.w = w_, p.c = step.c_in, p.hidden = step.hidden;
    p.x = {map_, dtype_};
    p.packed = program_.at(step.packed);
    p.gamma = {program_.at(step.vectors), DType::kFloat32};
    p.ln_eps = step.eps, p.grn_eps = step.grn_eps;
    p.y = map_of(i, h_, w_, step.c_out);
    run_block(isa_, p, parallel_);
    map_ = p.y;
  }

  void layer_norm(const Step& step, ConstArray x, int64_t rows, void* y) {
    const PatchNorm norm = norm_of(step, step.c_out);
    layer_norm_cpu(isa_).forward({x, norm.weight, norm.bias, y, rows, step.c_out, step.eps}, parallel_);
  }

  void map_norm(int64_t i, const Step& step) {
    const bool aside = step.kind == StepKind::kOutputNorm;
    if (aside && output(i) == nullptr) return;
    void* y = map_of(i, h_, w_, step.c_out);
    layer_norm(step, {map_, dtype_}, samples_ * h_ * w_, y);
    if (!aside) map_ = y;
  }

  void pool(int64_t i, const Step& step) {
    vector_ = vectors_[0];
    mean_cpu(isa_).forward({{map_, dtype_}, samples_, h_ * w_, step.c_in, vector_}, parallel_);
    if (step.norm != NormPlace::kNone) {
      layer_norm(step, {vector_, DType::kFloat32}, samples_, vectors_[1]);
      vector_ = vectors_[1];
    }
    give(i, step);
  }

  // As a 1 x 1 convolution of maps with one position.
  void linear(int64_t i, const Step& step) {
    PatchConvForward p{};
    p.x = {vector_, DType::kFloat32};
    p.channel_stride = 1;
    p.pixel_stride = p.row_stride = p.sample_stride = step.c_in;
    p.height = p.width = p.k = 1;
    p.c_in = step.c_in, p.c_out = step.c_out, p.rows = samples_;
    p.packed = program_.at(step.packed);
    float* y = vectors_[vector_ == vectors_[0] ? 1 : 0];
    p.y = y;
    patch_conv_cpu(isa_).run(p, parallel_);
    vector_ = y;
    give(i, step);
  }

  // In place. Few numbers, so that erf of the C library is fast enough.
  void gelu(int64_t i, const Step& step) {
    for (int64_t k = 0; k < samples_ * step.c_out; ++k)
      vector_[k] *= 0.5f * std::erfc(vector_[k] * -0.70710678118654752f);
    give(i, step);
  }

  // The vector of step i, to its output if that is wanted.
  void give(int64_t i, const Step& step) {
    if (output(i) == nullptr) return;
    const int64_t count = samples_ * step.c_out;
    with_dtype(dtype_, static_cast<void*>(output(i) + first_ * step.c_out * item()), [&](auto* to) {
      for (int64_t k = 0; k < count; ++k) from_float(vector_[k], to + k);
    });
  }

  const ModelForward& p_;
  const Parallel& parallel_;
  Program program_;
  CpuIsa isa_;
  DType dtype_;
  std::vector<char*> outputs_;  // of each step, null: not wanted
  int64_t end_ = 0;             // of the steps that run
  float *maps_[2] = {}, *vectors_[2] = {};
  int turn_ = 0;                     // which of the maps was written last
  int64_t first_ = 0, samples_ = 0;  // that run at present
  const void* map_ = nullptr;        // null: the image
  float* vector_ = nullptr;
  int64_t h_ = 0, w_ = 0;  // of the map
};

}  // namespace

PlaneSize plane_of(const Program& program, int64_t start, int64_t step, PlaneSize image) {
  for (int64_t i = start; i <= step; ++i) image = {image.h / program.step(i).k, image.w / program.step(i).k};
  return image;
}

void run_model(const ModelForward& p, const Parallel& parallel) {
  const ReturnLargeScratch after;
  ModelRun(p, parallel).run();
}

}  // namespace cnv2
