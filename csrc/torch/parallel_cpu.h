// What framework-free CPU code takes: the number of threads, a tensor's memory with its dtype.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cpu/common/array.h"
#include "cpu/common/parallel.h"
#include "cpu/threads/cpus.h"
#include "tensor_utils.h"

namespace cnv2 {

// As many threads as torch.set_num_threads or OMP_NUM_THREADS say, but no more than there are CPUs for. They are
// threads of our own (cpu/threads).
inline Parallel torch_parallel() {
  return {std::min(static_cast<int64_t>(torch::stable::get_num_threads()), usable_cpus())};
}

// Refuses a tensor whose storage was freed, as sharding does with parameters that are not in use.
inline ConstArray array_of(const Tensor& t) {
  const void* memory = t.const_data_ptr();
  if (memory == nullptr && t.numel() > 0)
    throw std::invalid_argument(describe("a parameter", t) + " has no memory: its storage was resized to 0");
  return {memory, *dtype_of(t)};
}

}  // namespace cnv2
