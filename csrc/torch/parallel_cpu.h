// What framework-free CPU code takes: torch's threads, a tensor's memory with its dtype.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/common/array.h"
#include "cpu/common/parallel.h"
#include "tensor_utils.h"

namespace cnv2 {

// Honours torch.set_num_threads.
inline Parallel torch_parallel() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()),
          [](int64_t begin, int64_t end, int64_t grain, Parallel::Body body, void* context) {
            torch::stable::parallel_for(begin, end, grain, [=](int64_t from, int64_t to) { body(context, from, to); });
          }};
}

inline ConstArray array_of(const Tensor& t) { return {t.const_data_ptr(), *dtype_of(t)}; }

}  // namespace cnv2
