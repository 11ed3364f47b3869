// What framework-free CPU code takes: the number of threads, a tensor's memory with its dtype.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cpu/common/array.h"
#include "cpu/common/parallel.h"
#include "cpu/threads/cpus.h"
#include "tensor_utils.h"

namespace cnv2 {

// Whether the last operator of this thread that belongs to one of the two was of training, or of inference.
inline thread_local bool this_thread_trains = false;

// As many threads as torch.set_num_threads or OMP_NUM_THREADS say, but no more than there are CPUs for.
//
// In inference they are threads of our own (cpu/threads). In training they are torch's: its operators come in between,
// and behind each of them its threads (OpenMP) go on spinning for milliseconds, so that ours would have to share cores
// with them. Operators that both run go by those before.
inline Parallel torch_parallel() {
  const int64_t threads = std::min(static_cast<int64_t>(torch::stable::get_num_threads()), usable_cpus());
  if (!this_thread_trains) return {threads};
  return {threads, [](int64_t shares, void (*share)(void*, int64_t), void* context) {
            torch::stable::parallel_for(0, shares, 1, [=](int64_t from, int64_t to) {
              for (int64_t number = from; number < to; ++number) share(context, number);
            });
          }};
}

// For operators that only training runs, or only inference.
inline Parallel torch_parallel_in(bool training) {
  this_thread_trains = training;
  return torch_parallel();
}

// Refuses a tensor whose storage was freed, as sharding does with parameters that are not in use.
inline ConstArray array_of(const Tensor& t) {
  const void* memory = t.const_data_ptr();
  if (memory == nullptr && t.numel() > 0)
    throw std::invalid_argument(describe("a tensor", t) + " has no memory: its storage was resized to 0");
  return {memory, *dtype_of(t)};
}

}  // namespace cnv2
