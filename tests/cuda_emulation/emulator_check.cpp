// Kernels, right ones and wrong ones, that show what the emulation computes and what it notices.
//
// check NAME...: runs each of these and prints whether its results are right; a launch that fails ends the program.
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/vector.cuh"

namespace cnv2 {
namespace {

constexpr unsigned kAll = 0xffffffffu;

template <class... P, class... A>
void start(void (*kernel)(P...), dim3 grid, unsigned threads, int64_t shared_bytes, const A&... args) {
  if (launch(kernel, grid, threads, shared_bytes, nullptr, args...) != cudaSuccess) std::puts("not launched");
}

bool same(const std::vector<float>& got, const std::function<double(int)>& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (static_cast<double>(got[i]) != want(static_cast<int>(i))) return false;
  }
  return true;
}

// ---- shuffles and votes

#define EXPECT(condition) \
  if (!(condition)) ++*wrong
__global__ void warp_functions_kernel(int* wrong) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  EXPECT(__shfl_sync(kAll, lane + 100 * warp, 5) == 5 + 100 * warp);
  EXPECT(__shfl_sync(kAll, 1.5 * lane, (lane + 1) % 32) == 1.5 * ((lane + 1) % 32));
  EXPECT(__shfl_sync(kAll, lane, 3, 8) == lane / 8 * 8 + 3);
  EXPECT(__shfl_xor_sync(kAll, static_cast<float>(lane), 16) == static_cast<float>(lane ^ 16));
  EXPECT(__shfl_xor_sync(kAll, int64_t{lane} << 40, 3) == int64_t{lane ^ 3} << 40);
  EXPECT(__shfl_up_sync(kAll, lane, 1) == (lane == 0 ? 0 : lane - 1));
  EXPECT(__shfl_up_sync(kAll, lane, 2, 4) == (lane % 4 < 2 ? lane : lane - 2));
  EXPECT(__shfl_down_sync(kAll, 7u + lane, 4) == 7u + (lane + 4 < 32 ? lane + 4 : lane));
  EXPECT(__shfl_down_sync(kAll, lane, 1, 2) == (lane | 1));
  EXPECT(__ballot_sync(kAll, lane % 3 == warp) == (warp == 0 ? 0x49249249u : 0x92492492u));
  EXPECT(__any_sync(kAll, lane == 31) && !__any_sync(kAll, lane == 32));
  EXPECT(__all_sync(kAll, lane < 32) && !__all_sync(kAll, lane < 31));
  EXPECT(__syncthreads_count(lane < 10) == 20);
  EXPECT(__syncthreads_or(threadIdx.x == 63) && !__syncthreads_or(threadIdx.x == 64));
  EXPECT(__syncthreads_and(threadIdx.x < 64) && !__syncthreads_and(threadIdx.x < 63));
  EXPECT(__popc(0xf0f0u) == 8 && __ffs(0x50) == 5 && __ffs(0) == 0 && __clz(1) == 31 && __clz(0) == 32);
  EXPECT(__byte_perm(0x44332211u, 0x88776655u, 0x7632) == 0x88774433u);
  EXPECT(__byte_perm(0x44332211u, 0x88776655u, 0x5410) == 0x66552211u);
  EXPECT(__uint_as_float(__float_as_uint(1.5f)) == 1.5f && rsqrtf(4.0f) == 0.5f && fmaf(2.0f, 3.0f, 1.0f) == 7.0f);
  EXPECT(__saturatef(2.0f) == 1.0f && __saturatef(0.25f) == 0.25f && __saturatef(-1.0f) == 0.0f);
  EXPECT(__saturatef(NAN) == 0.0f && std::isinf(reciprocal_approx(1e-39f)) && reciprocal_approx(1e38f) == 0.0f);
  EXPECT(reciprocal_approx(4.0f) == 0.25f && exp2_approx(3.0f) == 8.0f && exp2_approx(-126.0f) > 0.0f);
  EXPECT(exp2_approx(-126.5f) == 0.0f && exp2_approx(-INFINITY) == 0.0f && std::isnan(exp2_approx(NAN)));
  EXPECT(min(lane, 3) <= 3 && max(lane, 3) >= 3 && make_uint4(1, 2, 3, 4).z == 3 && make_float2(1, 2).y == 2);
}
#undef EXPECT

bool warp_functions() {
  int wrong = 0;
  start(warp_functions_kernel, dim3(2, 2, 2), 64, 0, &wrong);
  return wrong == 0;
}

__global__ void block_sum_kernel(float* out) {
  CNV2_SHARED(shared);
  for (int round = 0; round < 3; ++round) {
    float value[2] = {static_cast<float>(threadIdx.x), 1.0f};
    block_sum<2>(value, reinterpret_cast<float*>(shared));
    out[threadIdx.x] = value[0] + value[1] + static_cast<float>(round);
  }
}

bool block_sums() {
  std::vector<float> out(256);
  start(block_sum_kernel, 1, 256, 2 * 8 * 4, out.data());
  return same(out, [](int) { return 255 * 128 + 256 + 2; });
}

// ---- synchronisation that is missing: threads pass values on through shared memory

// Thread i takes what thread (i + 1) % n has written. kBarrier: whether it waits.
template <bool kBarrier>
__global__ void neighbour_kernel(float* out) {
  CNV2_SHARED(shared);
  float* const value = reinterpret_cast<float*>(shared);
  value[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = value[(threadIdx.x + 1) % blockDim.x];
}

template <bool kBarrier>
bool neighbour() {
  std::vector<float> out(64);
  start(neighbour_kernel<kBarrier>, 1, 64, 64 * 4, out.data());
  return same(out, [](int i) { return (i + 1) % 64; });
}

// Warp 1 reads what warp 0 has written before a shuffle, which orders nothing between warps.
template <bool kBarrier>
__global__ void across_a_shuffle_kernel(float* out) {
  CNV2_SHARED(shared);
  float* const value = reinterpret_cast<float*>(shared);
  value[threadIdx.x] = __shfl_xor_sync(kAll, static_cast<float>(threadIdx.x), 0);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(kAll, value[threadIdx.x ^ 32], 0);
}

template <bool kBarrier>
bool across_a_shuffle() {
  std::vector<float> out(64);
  start(across_a_shuffle_kernel<kBarrier>, 1, 64, 64 * 4, out.data());
  return same(out, [](int i) { return i ^ 32; });
}

// A value that is overwritten while others may still read it.
template <bool kBarrier>
__global__ void overwrite_kernel(float* out) {
  CNV2_SHARED(shared);
  float* const value = reinterpret_cast<float*>(shared);
  float sum = 0.0f;
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) value[0] = static_cast<float>(round + 1);
    __syncthreads();
    sum += value[0];
    if (kBarrier) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool kBarrier>
bool overwrite() {
  std::vector<float> out(64);
  start(overwrite_kernel<kBarrier>, 1, 64, 4, out.data());
  return same(out, [](int) { return 3; });
}

template <bool kSync>
__global__ void within_a_warp_kernel(float* out) {
  CNV2_SHARED(shared);
  float* const value = reinterpret_cast<float*>(shared);
  value[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kSync) __syncwarp();
  out[threadIdx.x] = value[threadIdx.x ^ 1];
}

template <bool kSync>
bool within_a_warp() {
  std::vector<float> out(32);
  start(within_a_warp_kernel<kSync>, 1, 32, 32 * 4, out.data());
  return same(out, [](int i) { return i ^ 1; });
}

// ---- asynchronous copies

// Two groups of copies; kPending of them may be under way when they are read.
template <int kPending, bool kBarrier>
__global__ void copies_kernel(const float* in, float* out, bool second) {
  CNV2_SHARED(shared);
  float* const to = reinterpret_cast<float*>(shared);
  const int i = threadIdx.x, n = blockDim.x;
  copy_async16(to + 4 * i, in + 4 * i, true);
  commit_copies();
  copy_async16(to + 4 * (n + i), in, false);
  commit_copies();
  wait_for_copies<kPending>();
  if (kBarrier) __syncthreads();
  out[i] = to[4 * ((i + 1) % n) + (second ? 4 * n : 0)];
  wait_for_copies<0>();
}

template <int kPending, bool kBarrier>
bool copies(bool second) {
  std::vector<float> in(256), out(64);
  for (int i = 0; i < 256; ++i) in[static_cast<size_t>(i)] = static_cast<float>(i);
  alignas(16) static float aligned[256];
  std::copy(in.begin(), in.end(), aligned);
  start(copies_kernel<kPending, kBarrier>, 1, 64, 2 * 256 * 4, static_cast<const float*>(aligned), out.data(), second);
  return same(out, [&](int i) { return second ? 0 : 4 * ((i + 1) % 64); });
}

template <bool kCommit>
__global__ void pending_kernel(const float* in) {
  CNV2_SHARED(shared);
  copy_async16(shared, in, threadIdx.x == 0);
  if (kCommit) {
    commit_copies();
  } else {
    wait_for_copies<0>();  // which waits for groups alone
  }
}

template <bool kCommit>
bool pending() {
  alignas(16) static float in[4];
  start(pending_kernel<kCommit>, 1, 32, 16, static_cast<const float*>(in));
  return true;
}

// ---- memory

__global__ void uninitialised_kernel(float* out) {
  CNV2_SHARED(shared);
  out[blockIdx.x] = reinterpret_cast<float*>(shared)[threadIdx.x];  // of 1 thread in 32 that writes, later
  if (threadIdx.x == 31) reinterpret_cast<float*>(shared)[31] = 1.0f;
}

bool uninitialised() {  // NaN in every block, whatever the one before has left
  std::vector<float> out(3, 0.0f);
  start(uninitialised_kernel, 3, 32, 128, out.data());
  return std::isnan(out[0]) && std::isnan(out[1]) && std::isnan(out[2]);
}

__global__ void shared_overflow_kernel(int at) {
  CNV2_SHARED(shared);
  if (threadIdx.x == 0) shared[at] = 1;
}

bool shared_overflow(int at) {
  start(shared_overflow_kernel, 1, 32, 100, at);
  return true;
}

__global__ void global_overflow_kernel(const float* in, float* out, int at) { out[threadIdx.x] = in[at]; }

bool global_overflow() {
  const std::unique_ptr<float[]> in(new float[8]()), out(new float[32]);
  start(global_overflow_kernel, 1, 32, 0, static_cast<const float*>(in.get()), out.get(), 8);
  return true;
}

__global__ void misaligned_kernel(const float* in, float* out) {
  float value[4];
  load_vector<4>(in + 1, value);
  out[threadIdx.x] = value[0];
}

bool misaligned() {
  alignas(16) static float in[8];
  std::vector<float> out(32);
  start(misaligned_kernel, 1, 32, 0, static_cast<const float*>(in), out.data());
  return true;
}

// ---- divergence

__global__ void half_waits_kernel() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void some_lanes_kernel(int* out) {
  if (threadIdx.x < 20) *out = __shfl_xor_sync(kAll, 1, 1);
}

__global__ void two_shuffles_kernel(int* out) {
  if (threadIdx.x < 20) {
    *out = __shfl_xor_sync(kAll, 1, 1);
  } else {
    *out = __shfl_xor_sync(kAll, 2, 1);
  }
}

__global__ void partial_mask_kernel(int* out) { *out = __shfl_xor_sync(0xffu, 2, 1); }

// ---- matrix instructions

std::vector<float> random_values(size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& value : out) value = normal(engine);
  return out;
}

// [16, 16] a times [16, 8] b, both in row order in shared memory, added to d [16, 8].
template <class T>
__global__ void product_kernel(const T* a, const T* b, float* d) {
  CNV2_SHARED(shared);
  T* const mine_a = reinterpret_cast<T*>(shared);
  T* const mine_b = mine_a + 256;
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) mine_a[i] = a[i];
  for (int i = lane; i < 128; i += 32) mine_b[i] = b[i];
  __syncwarp();
  unsigned of_a[4], of_b[4];
  // Matrices of a: rows 0 and 8 of columns 0, then of columns 8.
  cuda_emulation::load_matrix_x4(of_a, mine_a + (lane % 16) * 16 + lane / 16 * 8, false);
  cuda_emulation::load_matrix_x4(of_b, mine_b + (lane % 16) * 8, true);
  const unsigned two[2] = {of_b[0], of_b[1]};
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  mma_m16n8k16<T>(sums, of_a, two);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

template <class T>
bool product() {
  const auto wide_a = random_values(256, 1), wide_b = random_values(128, 2);
  auto d = random_values(128, 3);
  std::vector<T> a(256), b(128);
  for (size_t i = 0; i < 256; ++i) from_float(wide_a[i], &a[i]);
  for (size_t i = 0; i < 128; ++i) from_float(wide_b[i], &b[i]);
  std::vector<double> want(d.begin(), d.end());
  for (size_t r = 0; r < 16; ++r) {
    for (size_t c = 0; c < 8; ++c) {
      for (size_t k = 0; k < 16; ++k) want[r * 8 + c] += double{to_float(a[r * 16 + k])} * to_float(b[k * 8 + c]);
    }
  }
  start(product_kernel<T>, 1, 32, 384 * 2, static_cast<const T*>(a.data()), static_cast<const T*>(b.data()), d.data());
  double worst = 0.0;
  for (size_t i = 0; i < 128; ++i) worst = std::fmax(worst, std::fabs(d[i] - want[i]));
  return worst < 1e-5;
}

// Every element of the fragments by the manual's formula, which the product alone would not tell from another that
// fits.
__global__ void fragments_kernel(int* wrong, bool transposed) {
  CNV2_SHARED(shared);
  auto* const matrices = reinterpret_cast<uint16_t*>(shared);  // [4, 8, 8], the element's index in each
  for (int i = threadIdx.x; i < 256; i += 32) matrices[i] = static_cast<uint16_t>(i);
  __syncwarp();
  unsigned r[4];
  cuda_emulation::load_matrix_x4(r, matrices + 8 * threadIdx.x, transposed);
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  for (unsigned m = 0; m < 4; ++m) {
    const unsigned low = 64 * m + (transposed ? 2 * t * 8 + g : 8 * g + 2 * t), high = low + (transposed ? 8 : 1);
    if (r[m] != (low | high << 16)) ++*wrong;
  }
}

bool fragments() {
  int wrong = 0;
  start(fragments_kernel, 1, 32, 512, &wrong, false);
  start(fragments_kernel, 1, 32, 512, &wrong, true);
  return wrong == 0;
}

// Every block runs once, in any order.
__global__ void blocks_kernel(float* out) {
  if (threadIdx.x == 0) out[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] += 1.0f;
}

bool blocks() {
  std::vector<float> out(5 * 4 * 3);
  start(blocks_kernel, dim3(5, 4, 3), 32, 0, out.data());
  return same(out, [](int) { return 1; });
}

// After a launch that failed the next one is as good as any.
bool recovers() {
  for (int i = 0; i < 3; ++i) {
    try {
      start(half_waits_kernel, 1, 1024, 0);
      return false;
    } catch (const std::runtime_error&) {
    }
    if (!block_sums()) return false;
  }
  return true;
}

int unused = 0;
const std::map<std::string, std::function<bool()>> kChecks = {
    {"warp_functions", warp_functions},
    {"block_sums", block_sums},
    {"blocks", blocks},
    {"recovers", recovers},
    {"uninitialised", uninitialised},
    {"fragments", fragments},
    {"product_bfloat16", product<BFloat16>},
    {"product_float16", product<Half>},
    {"barrier", neighbour<true>},
    {"no_barrier", neighbour<false>},
    {"barrier_across_a_shuffle", across_a_shuffle<true>},
    {"no_barrier_across_a_shuffle", across_a_shuffle<false>},
    {"barrier_before_overwriting", overwrite<true>},
    {"no_barrier_before_overwriting", overwrite<false>},
    {"syncwarp", within_a_warp<true>},
    {"no_syncwarp", within_a_warp<false>},
    {"copies_waited_for", [] { return copies<0, true>(true) && copies<0, true>(false) && copies<1, true>(false); }},
    {"copies_waited_for_too_little", [] { return copies<1, true>(true); }},
    {"copies_without_barrier", [] { return copies<0, false>(false); }},
    {"copies_never_waited_for", pending<true>},
    {"copies_of_no_group", pending<false>},
    {"shared_overflow", [] { return shared_overflow(100); }},
    {"shared_underflow", [] { return shared_overflow(-1); }},
    {"global_overflow", global_overflow},
    {"misaligned", misaligned},
    {"half_waits", [] { return start(half_waits_kernel, 1, 64, 0), true; }},
    {"two_barriers", [] { return start(two_barriers_kernel, 1, 64, 0), true; }},
    {"some_lanes", [] { return start(some_lanes_kernel, 1, 32, 0, &unused), true; }},
    {"partial_mask", [] { return start(partial_mask_kernel, 1, 32, 0, &unused), true; }},
    {"two_shuffles", [] { return start(two_shuffles_kernel, 1, 32, 0, &unused), true; }},
};

}  // namespace
}  // namespace cnv2

int main(int count, char** names) {
  for (int i = 1; i < count; ++i) {
    const bool right = cnv2::kChecks.at(names[i])();
    std::printf("%s %s\n", names[i], right ? "right" : "wrong");
    std::fflush(stdout);
  }
  return 0;
}
