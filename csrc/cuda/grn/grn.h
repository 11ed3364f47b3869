// Launches the CUDA kernels of global response normalisation. No framework header. G is the number of groups.
#pragma once

#include "cuda/common/group_shape.h"
#include "cuda/partial_sums/partial_sums.h"

namespace cnv2 {

// Sets `shape->splits`, a function of the other members and the device only.
cudaError_t set_splits(GroupShape* shape);

// The norms of the groups and the scale that follows from them.
struct GrnScale {
  float* partial;     // [splits, G, C]: the blocks' sums of squares
  const void* gamma;  // [C] gamma_dtype
  float* norm;        // [G, C]: sqrt(squares)
  float* scale;       // [G, C]: 1 + gamma norm / (mean norm + eps)
  DType gamma_dtype;
  float eps;
};

// What the product behind GRN adds for beta: bias + matrix beta. Its rows are worked on beside the groups.
struct GrnShift {
  const void* matrix;  // [C', C] dtype, or null: it is not wanted
  const void* beta;    // [C] beta_dtype
  const void* bias;    // [C'] bias_dtype
  float* out;          // [C']
  int rows;            // C'
  DType dtype, beta_dtype, bias_dtype;
};

struct GrnApply {
  const void* x;       // [T, C] dtype
  const float* scale;  // [G, C]
  const void* beta;    // [C] beta_dtype
  void* y;             // [T, C] dtype: x scale + beta
  DType beta_dtype;
};

// What the gradients of the groups' norms, of gamma and of beta are made of.
struct GrnGrad {
  float* partial;     // [2, splits, G, C]: the blocks' sums of dy x, then of dy
  const void* gamma;  // [C] gamma_dtype
  const float* norm;  // [G, C]
  float* scale;       // [G, C]: as GrnScale's
  float* factor;      // [G, C]: the gradient of the norm over the norm; 0 where the norm is 0
  float* shares;      // [G, C]: what each group adds to dgamma
  DType gamma_dtype;
  float eps;
};

struct GrnBackward {
  const void* dy;  // [T, C] dtype
  const void* x;   // [T, C] dtype
  void* dx;        // [T, C] dtype: dy scale + x factor
};

// Each enqueues work on `stream` of the current device and returns the first error of a launch.
// apply.y, with apply.scale pointing to scale.scale.
cudaError_t launch_grn_forward(const GroupShape& shape, const GrnScale& scale, const GrnApply& apply,
                               cudaStream_t stream);
// p.dx, and what add_grn_sums adds up.
cudaError_t launch_grn_backward(const GroupShape& shape, const GrnGrad& grad, const GrnBackward& p,
                                cudaStream_t stream);

// The steps that mlp_grn shares: norm and scale from `partial` (and `shift`), the last step of the forward pass, and
// all but dx from `partial`.
cudaError_t launch_grn_scale(const GroupShape& shape, const GrnScale& p, const GrnShift& shift, cudaStream_t stream);
cudaError_t launch_grn_apply(const GroupShape& shape, const GrnApply& p, cudaStream_t stream);
cudaError_t launch_grn_grad(const GroupShape& shape, const GrnGrad& p, cudaStream_t stream);

// The sums that give dgamma and dbeta, [C] each.
void add_grn_sums(const GroupShape& shape, const GrnGrad& grad, void* dgamma, DType dgamma_dtype, void* dbeta,
                  DType dbeta_dtype, SumJobs* jobs);

}  // namespace cnv2
