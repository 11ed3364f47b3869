// Checks and allocations that the CUDA operators of grn and mlp_grn share. All tensors here are float32; G is the
// number of groups, C that of x's columns.
#pragma once

#include "cuda/grn/grn.h"
#include "cuda_scope.h"
#include "groups.h"

namespace cnv2 {

struct GrnNorms {
  Tensor norm, scale;  // [G, C]
  Tensor partial;      // memory for in between
  GrnScale params;     // points into them
};

// What a forward pass leaves of the groups' norms. Refuses an unfit gamma; sets shape->splits.
inline GrnNorms grn_norms(const char* op, const Tensor& x, const Tensor& gamma, double eps, GroupShape* shape) {
  const int64_t g = shape->groups.count, c = shape->columns;
  const DType gamma_dtype = vector_dtype(op, "gamma", x, c, gamma);
  check_cuda(set_splits(shape));
  GrnNorms n{floats(x, {g, c}), floats(x, {g, c}), floats(x, {shape->splits, g, c}), {}};
  n.params = {float_data(n.partial), gamma.const_data_ptr(), float_data(n.norm), float_data(n.scale),
              gamma_dtype,           static_cast<float>(eps)};
  return n;
}

struct GrnGradients {
  Tensor dgamma, dbeta;                   // [C]
  Tensor partial, scale, factor, shares;  // memory for in between
  GrnGrad params;                         // points into them
};

// What a backward pass leaves of gamma's and beta's gradients. Refuses an unfit gamma or norm; sets shape->splits.
inline GrnGradients grn_gradients(const char* op, const Tensor& x, const Tensor& gamma, const Tensor& norm, double eps,
                                  GroupShape* shape) {
  const int64_t g = shape->groups.count, c = shape->columns;
  const DType gamma_dtype = vector_dtype(op, "gamma", x, c, gamma);
  const float* norms = of_groups(op, "norm", x, shape->groups, c, norm);
  check_cuda(set_splits(shape));
  GrnGradients n{floats(x, {c}),
                 floats(x, {c}),
                 floats(x, {2, shape->splits, g, c}),
                 floats(x, {g, c}),
                 floats(x, {g, c}),
                 floats(x, {g, c}),
                 {}};
  n.params = {float_data(n.partial), gamma.const_data_ptr(), norms,       float_data(n.scale),
              float_data(n.factor),  float_data(n.shares),   gamma_dtype, static_cast<float>(eps)};
  return n;
}

}  // namespace cnv2
