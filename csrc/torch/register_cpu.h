// The registration of CPU operators. Every one of them runs with subnormal numbers flushed to zero.
#pragma once

#include <torch/csrc/stable/library.h>

#include <utility>

#include "cpu/common/denormals.h"

namespace cnv2 {

template <auto* function>
struct Flushed;

template <class Result, class... Arguments, Result (*function)(Arguments...)>
struct Flushed<function> {
  static Result call(Arguments... arguments) {
    const FlushDenormals flush;
    return function(std::forward<Arguments>(arguments)...);
  }
};

// What the body of CNV2_CPU_OPERATORS is given, in place of torch's own library: it takes no other functions.
class CpuOperators {
 public:
  explicit CpuOperators(torch::stable::detail::StableLibrary& library) : library_(library) {}

  template <auto* function>
  void add(const char* name) {
    library_.impl(name, TORCH_BOX(&Flushed<function>::call));
  }

 private:
  torch::stable::detail::StableLibrary& library_;
};

}  // namespace cnv2

// CNV2_CPU_OPERATORS(m) { m.add<function>("operator"); ... }, in namespace cnv2, once in a file.
#define CNV2_CPU_OPERATORS(m)                                                                                    \
  static void add_cpu_operators(::cnv2::CpuOperators m);                                                         \
  STABLE_TORCH_LIBRARY_IMPL(convnextv2_fast, CPU, library) { add_cpu_operators(::cnv2::CpuOperators(library)); } \
  static void add_cpu_operators(::cnv2::CpuOperators m)
