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

// Refuses a tensor whose storage was freed, as sharding does with parameters that are not in use.
inline ConstArray array_of(const Tensor& t) {
  const void* memory = t.const_data_ptr();
  if (memory == nullptr && t.numel() > 0)
    throw std::invalid_argument(describe("a parameter", t) + " has no memory: its storage was resized to 0");
  return {memory, *dtype_of(t)};
}

}  // namespace cnv2
