// torch's threads for framework-free CPU code.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/parallel.h"

namespace cnv2 {

// Honours torch.set_num_threads.
inline Parallel torch_parallel() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()),
          [](int64_t begin, int64_t end, int64_t grain, Parallel::Body body, void* context) {
            torch::stable::parallel_for(begin, end, grain,
                                        [=](int64_t from, int64_t to) { body(context, from, to); });
          }};
}

}  // namespace cnv2
