// A frozen model as a program: one buffer of floats that holds a header, the steps from the image to the features or
// logits, and the weights of each step as its kernel reads them. Steps refer to their weights by offsets, so a buffer
// can be copied, saved and loaded. No framework header.
#pragma once

#include <cstdint>
#include <string>

#include "common/dtype.h"
#include "cpu/common/cpu_features.h"

namespace cnv2 {

// Maps are [N, H, W, C] in the program's dtype, vectors [N, C] in float32.
enum class StepKind : int32_t {
  kPatchConv,   // map to map: a k x k convolution of stride k, LayerNorm before or after it
  kBlock,       // map to map: a ConvNeXt block
  kNorm,        // map to map: LayerNorm
  kOutputNorm,  // LayerNorm of the map, for an output alone: the next step reads the map as it was
  kPool,        // map to vector: the mean over H and W, and its LayerNorm
  kLinear,      // vector to vector
  kGelu,        // vector to vector
  kCount
};

enum class NormPlace : int32_t { kNone, kBefore, kAfter };

struct Step {
  StepKind kind;
  NormPlace norm;  // of a patch convolution; of pooling: kAfter or kNone; of others that have one: kAfter
  int64_t k;       // of a patch convolution, else 1
  int64_t c_in, c_out;
  int64_t hidden;   // of a block
  int64_t packed;   // where the packed weights begin, in floats from the program's start
  int64_t vectors;  // where the vectors begin: LayerNorm's weight and bias; of a block GRN's gamma
  float eps;        // of LayerNorm
  float grn_eps;
};
static_assert(sizeof(Step) == 64, "one cache line");

struct ProgramHeader {
  static constexpr uint32_t kMagic = 0x46766e63;  // "cnvF"
  static constexpr uint32_t kVersion = 2;         // of the steps' form and of the order of packed weights
  uint32_t magic, version;
  CpuIsa isa;
  DType dtype;     // of maps and outputs
  int64_t steps;   // they follow the header
  int64_t floats;  // of the whole buffer
  char reserved[32];
};
static_assert(sizeof(ProgramHeader) == 64, "one cache line, so that what follows stays aligned");

class Program {
 public:
  explicit Program(const float* memory) : memory_(memory) {}
  const ProgramHeader& header() const { return *reinterpret_cast<const ProgramHeader*>(memory_); }
  int64_t steps() const { return header().steps; }
  const Step& step(int64_t i) const {
    return reinterpret_cast<const Step*>(memory_ + sizeof(ProgramHeader) / sizeof(float))[i];
  }
  const float* at(int64_t offset) const { return memory_ + offset; }

 private:
  const float* memory_;
};

inline bool makes_map(StepKind kind) { return kind < StepKind::kPool; }

// What a step's product multiplies, in a program of this dtype.
inline DType operand_dtype(DType dtype, const Step& step) { return makes_map(step.kind) ? dtype : DType::kFloat32; }

// How many floats of packed weights and of vectors a step has.
int64_t step_packed_floats(CpuIsa isa, DType dtype, const Step& step);
int64_t step_vector_floats(const Step& step);

// Where the steps' weights and vectors lie: one step's behind the other's, each from the start of a cache line. `at`:
// where the first step's begin, and those of the step after `step`, in floats from the program's start.
int64_t first_offset(int64_t steps);
int64_t lay_out(CpuIsa isa, DType dtype, int64_t at, Step* step);

// What is wrong with a buffer of `count` floats as a program for the instruction set `isa`, in words; empty: nothing.
// Looks at the header and the steps, not at the weights.
std::string program_fault(CpuIsa isa, const float* memory, int64_t count);

}  // namespace cnv2
