// patch_conv on CPUs: blocks of k x k source pixels, gathered and normalised on their way into the operand of a
// matrix product, whose rows can be normalised on their way out. No framework header.
#pragma once

#include <cstdint>

#include "cpu/common/array.h"
#include "cpu/common/isa_table.h"
#include "cpu/common/parallel.h"

namespace cnv2 {

struct PatchNorm {          // LayerNorm's parameters; data null: none
  ConstArray weight, bias;  // [channels]
};

struct PatchWeight {
  ConstArray data;  // [k, k, c_in, c_out] in the order of the strides
  int64_t k, c_in, c_out;
  int64_t ky_stride, kx_stride, c_in_stride, c_out_stride;  // in elements
  ConstArray bias;                                          // [c_out]; data null: none
  DType activations = DType::kFloat32;                      // that the packed weight is for
  int64_t depth() const { return k * k * c_in; }
};

struct PatchConvForward {
  ConstArray x;                                                     // source pixels
  int64_t pixel_stride, row_stride, sample_stride, channel_stride;  // of x, in elements
  int64_t height, width;                                            // of its planes
  // Which pixels a result row takes: null, those of the plane [N, height / k, width / k] in order; with one column,
  // positions in that plane; with k * k columns, the pixels' numbers themselves (then pixel_stride apart), -1: zeros.
  const int64_t* __restrict__ table;  // [rows, table_columns]
  int64_t table_columns;
  int64_t rows, k, c_in, c_out;
  const float* __restrict__ packed;  // [packed_floats], of pack(), for activations of x's dtype
  PatchNorm before, after;
  float eps;
  void* __restrict__ y;  // [rows, c_out] in x's dtype
};

// The gradients of the product's parameters: `of` says where its rows lie in x, and their norm.
struct PatchParameterGradients {
  PatchConvForward of;
  ConstArray dz;                // [rows, c_out]
  float* __restrict__ dweight;  // [c_out, k * k * c_in], columns in the order (ky, kx, channel)
  float* __restrict__ dbias;    // [c_out]
};

// The gradient of x, behind its norm: `of` says where the product's rows lie in x.
struct PatchInputGradient {
  PatchConvForward of;
  ConstArray dz, weight;  // [rows, c_out], [c_out, k * k * c_in]
  void* __restrict__ dx;  // [pixels, c_in] in x's dtype, contiguous
  int64_t pixels;
  bool covers;  // every pixel belongs to a row; the others become zero
};

struct PatchConvCpu {
  int64_t (*packed_floats)(const PatchWeight&);
  void (*pack)(const PatchWeight&, float* packed, const Parallel&);
  void (*run)(const PatchConvForward&, const Parallel&);
  void (*parameter_gradients)(const PatchParameterGradients&, const Parallel&);
  void (*input_gradient)(const PatchInputGradient&, const Parallel&);
  bool pairs;  // multiplies bfloat16 activations and weights in pairs, without widening them to float32
};

// The dtype of packed weights for activations of a dtype.
inline DType packed_dtype(const PatchConvCpu& cpu, DType activations) {
  return cpu.pairs && activations == DType::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
}

CNV2_ISA_TABLE(CNV2_ALL_ISAS, PatchConvCpu, kPatchConv, patch_conv_cpu)

}  // namespace cnv2
