// mlp_grn: y = residual + row_scale (GRN(GELU(u w1' + b1)) w2' + b2) on CPUs. No framework header.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/row_groups.h"
#include "cpu/common/array.h"
#include "cpu/common/isa_table.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct MlpGrnShape {
  RowGroups groups;
  int64_t c_in, hidden, c_out;
  float eps;
  // A group whose hidden activations take more than this is computed in slices, twice: its norms are known only after
  // all of it.
  int64_t held_bytes;
  DType activations;  // u's dtype, for which weights are packed
};

struct MlpGrnWeights {
  ConstArray w1, b1;  // [hidden, c_in], [hidden]
  ConstArray beta;    // [hidden]
  ConstArray w2, b2;  // [c_out, hidden], [c_out]
};

struct MlpGrnForward {
  MlpGrnShape shape;
  ConstArray u;                         // [T, c_in]
  const float* __restrict__ packed;     // [packed_floats], of pack()
  ConstArray gamma;                     // [hidden]
  const void* __restrict__ residual;    // [T, c_out] in y's dtype, or null
  const float* __restrict__ row_scale;  // [T / scale_rows], or null
  int64_t scale_rows;
  void* __restrict__ y;  // [T, c_out]
  DType y_dtype;
  float* __restrict__ norm;  // [groups, hidden]: ||g|| over a group's rows, or null
  // [T, saved_columns]: u w1' + b1 in the order of the instruction set, for a backward on the same one, then zeros; or
  // null.
  float* __restrict__ saved_hidden;
};

struct MlpGrnBackward {
  MlpGrnShape shape;
  MlpGrnWeights weights;
  ConstArray dy, u;                        // [T, c_out], [T, c_in]
  ConstArray gamma;                        // [hidden]
  const float* __restrict__ norm;          // [groups, hidden]
  const float* __restrict__ saved_hidden;  // [T, saved_columns] of the forward; null: computed again
  void* __restrict__ du;                   // [T, c_in] in u's dtype
  float* __restrict__ dw1;                 // [hidden, c_in]
  float* __restrict__ db1;                 // [hidden]
  float* __restrict__ dgamma;              // [hidden]
  float* __restrict__ dbeta;               // [hidden]
  float* __restrict__ dw2;                 // [c_out, hidden]
  float* __restrict__ db2;                 // [c_out]
};

// Groups of fewer rows are taken together up to so many: their hidden activations fit the cache.
constexpr int64_t kMlpGrnChunkRows = 784;

// Columns of the hidden activations that a forward saves, for each row: whole blocks of any instruction set.
inline int64_t saved_columns(int64_t hidden) { return (hidden + 31) / 32 * 32; }

struct MlpGrnCpu {
  int64_t (*packed_floats)(const MlpGrnShape&);
  // Weights in the order the forward reads them; valid for this instruction set, and for activations of this dtype.
  void (*pack)(const MlpGrnShape&, const MlpGrnWeights&, float* packed, const Parallel&);
  void (*forward)(const MlpGrnForward&, const Parallel&);
  void (*backward)(const MlpGrnBackward&, const Parallel&);
  bool pairs;  // multiplies bfloat16 activations and weights in pairs, without widening them to float32
};

// The dtype of packed weights for activations of a dtype.
inline DType packed_dtype(const MlpGrnCpu& cpu, DType activations) {
  return cpu.pairs && activations == DType::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
}

CNV2_ISA_TABLE(CNV2_ALL_ISAS, MlpGrnCpu, kMlpGrn, mlp_grn_cpu)

}  // namespace cnv2
