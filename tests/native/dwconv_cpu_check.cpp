// The CPU kernels, instantiated as -DCNV2_VECTOR=... -DCNV2_STRIP=..., against the double precision reference.
#include <cstdlib>
#include <memory>

#include "cpu/dwconv/backward_kernel.h"
#include "cpu/dwconv/forward_kernel.h"
#include "dwconv_problem.h"

namespace cnv2 {

template <class T>
std::unique_ptr<float[], void (*)(void*)> aligned_floats(T count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  return {static_cast<float*>(std::aligned_alloc(64, bytes)), std::free};
}

inline void convolve(const DwconvForward& p, int64_t threads) {
  using Kernel = DwconvForwardKernel<CNV2_VECTOR, CNV2_STRIP>;
  const DwconvCpuTiling t = Kernel::tiling(p, threads);
  auto packed = aligned_floats(t.packed_floats), scratch = aligned_floats(t.scratch_floats);
  Kernel::pack(p, packed.get(), 0, t.blocks);
  Kernel::run(p, t, packed.get(), scratch.get(), 0, t.tiles / 2);
  Kernel::run(p, t, packed.get(), scratch.get(), t.tiles / 2, t.tiles);
}

// [50, C].
template <class Problem>
std::vector<float> parameter_gradients(const Problem& problem) {
  using Kernel = DwconvBackwardKernel<CNV2_VECTOR, CNV2_STRIP>;
  DwconvBackward p = problem.backward(nullptr);
  const DwconvSumsTiling t = Kernel::tiling(p);
  const int64_t count = kDwconvSums * p.c;
  const Guarded<float> partial(t.slabs * count);
  p.partial = partial.get();
  for (int64_t i = 0; i < t.slabs * count; ++i) partial[i] = std::numeric_limits<float>::quiet_NaN();
  auto scratch = aligned_floats(t.scratch_floats);
  Kernel::run(p, t, scratch.get(), 0, t.slabs * t.groups);
  std::vector<float> sums(count);
  for (int64_t i = 0; i < t.slabs * count; ++i) sums[i % count] += partial[i];
  return sums;
}

template <class Problem>
double check(Problem& problem) {
  const std::vector<float> sums = parameter_gradients(problem);
  std::vector<char> first;
  double worst = 0.0;
  for (const int64_t threads : {1, 64}) {  // low tiles and high ones: the same bits
    convolve(problem.forward(), threads);
    convolve(problem.input_gradient(), threads);
    const double error = problem.error(sums.data());
    worst = error > worst ? error : worst;
    const std::vector<char> bytes = problem.output_bytes();
    if (first.empty()) first = bytes;
    if (bytes != first) {
      std::printf("the result depends on the tiling\n");
      return std::numeric_limits<double>::infinity();
    }
  }
  return worst;
}

}  // namespace cnv2

int main() {
  const std::vector<cnv2::Shape> shapes = {
      {1, 1, 1, 1},    {1, 1, 1, 8},   {2, 3, 1, 40},  {1, 1, 3, 7},   {1, 7, 7, 48},  {3, 7, 7, 16},
      {1, 13, 13, 40}, {1, 14, 14, 1}, {1, 2, 29, 33}, {1, 9, 28, 8},  {1, 3, 56, 24}, {1, 5, 57, 17},
      {1, 8, 6, 96},   {1, 4, 8, 352}, {1, 6, 17, 31}, {1, 2, 15, 47}, {1, 2, 20, 64}, {2, 4, 10, 15},
  };
  return cnv2::check_all(shapes, [](auto& problem) { return cnv2::check(problem); });
}
