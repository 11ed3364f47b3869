// Launches the CUDA kernels of global response normalisation. No framework header.
#pragma once

#include "common/dtype.h"
#include "common/row_groups.h"
#include "cuda/common/api.h"

namespace cnv2 {

// What a call works on: rows [T, columns] in groups. `splits`: of grn_splits, the leading size of partial sums.
struct GrnShape {
  RowGroups groups;
  int64_t columns;
  DType dtype;
  bool aligned;  // rows are made of 16-byte vectors, and so are all pointers
};

// Blocks that share a group: a function of the shape and the device only.
cudaError_t grn_splits(const GrnShape& shape, int64_t* splits);

// partial [splits, groups, columns] = sums of x^2.
cudaError_t launch_grn_squares(const GrnShape& shape, const void* x, float* partial, cudaStream_t stream);

// partial [2, splits, groups, columns] = sums of dy x, and of dy.
cudaError_t launch_grn_products(const GrnShape& shape, const void* dy, const void* x, float* partial,
                                cudaStream_t stream);

// out = x scale + beta, with `scale` [groups, columns].
cudaError_t launch_grn_apply(const GrnShape& shape, const void* x, const float* scale, const void* beta,
                             DType param_dtype, void* out, cudaStream_t stream);

// dx = dy scale + x factor, both [groups, columns].
cudaError_t launch_grn_backward(const GrnShape& shape, const void* dy, const void* x, const float* scale,
                                const float* factor, void* dx, cudaStream_t stream);

// All [groups, columns]: norm = sqrt(squares), scale = 1 + gamma norm / (mean norm + eps).
cudaError_t launch_grn_scale(int64_t groups, int64_t columns, const float* squares, const void* gamma,
                             DType param_dtype, float eps, float* norm, float* scale, cudaStream_t stream);

// All [groups, columns], from the sums of dy x: scale as above; factor, the gradient of the norm over the norm (0 where
// that is 0); dgamma, each group's share.
cudaError_t launch_grn_grad(int64_t groups, int64_t columns, const float* products, const float* norm,
                            const void* gamma, DType param_dtype, float eps, float* scale, float* factor, float* dgamma,
                            cudaStream_t stream);

}  // namespace cnv2
