// The CUDA kernel's body, thread by thread on the CPU, against the double precision reference.
#include "cuda_emulation.h"

#include "cuda/dwconv_layer_norm/dwconv_layer_norm_kernel.cuh"
#include "dwconv_layer_norm_problem.h"

namespace cnv2 {

constexpr int64_t kSharedFloats = 16 * 1024;
float shared[kSharedFloats];  // the kernel's dynamic shared memory

template <class T, class P, int kStrip, bool kStaged>
double run(Problem<T, P>& problem, unsigned blocks) {
  const DwconvLayerNormParams& p = problem.params();
  const int64_t size = dwconv_layer_norm_shared_floats<kStrip, kStaged>(p.c);
  // What follows the block's share must stay as it is.
  for (int64_t i = 0; i < kSharedFloats; ++i) shared[i] = i < size ? NAN : 12345.0f;
  const int64_t strips = p.n * p.h * ((p.w + kStrip - 1) / kStrip);
  cuda_emulation::launch(blocks, kDwconvLayerNormThreads,
                         [&] { dwconv_layer_norm_kernel<T, P, kStrip, kStaged>(p, strips); });
  for (int64_t i = size; i < kSharedFloats; ++i) {
    if (shared[i] != 12345.0f) {
      std::printf("shared memory written beyond the %ld floats asked for\n", long(size));
      return std::numeric_limits<double>::infinity();
    }
  }
  return problem.error();
}

template <class T, class P>
double check(Problem<T, P>& problem) {
  const double staged = run<T, P, 7, true>(problem, 3);  // fewer blocks than strips: each takes several
  const double recomputed = run<T, P, 1, false>(problem, 5);
  return staged > recomputed ? staged : recomputed;
}

}  // namespace cnv2

int main() {
  const std::vector<cnv2::Shape> shapes = {
      {1, 1, 1, 1}, {1, 2, 3, 40}, {2, 1, 7, 8}, {1, 4, 9, 33}, {1, 2, 14, 48}, {1, 2, 13, 300},
  };
  return cnv2::check_all(shapes, false, [](auto& problem) { return cnv2::check(problem); });
}
