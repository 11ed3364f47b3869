// How many multiply-adds this CPU's own instructions do a second where nothing has to be loaded: `peak THREADS pairs`.
//
// pairs 0: float32, vectors as wide as the CPU has them. pairs 1: of bfloat16 pairs, on AMX or AVX512_BF16; ends with
// exit code 3 where there is neither. Prints operations per second (two a multiply-add) over all threads: the best of
// five tries, in which all threads run at once. Compile it with -O2 -march=native -pthread.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr long kRounds = 4000;  // between two looks at the clock
constexpr int kSums = 12;       // enough for two multiply-adds a cycle that take six cycles each
constexpr double kSeconds = 0.2;

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));

// The compiler may neither move a sum to memory nor leave a multiply-add out.
template <class V>
inline void keep(V& sum) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(sum));
#else
  asm volatile("" : "+w"(sum));
#endif
}

struct Floats {
  static constexpr double kOperations = 2.0 * kSums * kBytes / sizeof(float);  // of a round
  Vector a = Vector{} + 0.5f, b = Vector{} + 1.0f, sums[kSums] = {};
  Floats() { keep(a), keep(b); }  // they are constants no longer
  void round() {
#pragma GCC unroll 12
    for (Vector& sum : sums) sum = sum * b + a, keep(sum);
  }
};

#if defined(__AMX_BF16__) && defined(__linux__)
struct Pairs {  // two by two tiles of sums, as a product of matrices has them
  static constexpr double kOperations = 2.0 * 4 * 16 * 16 * 32;
  Pairs() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) std::exit(3);
    alignas(64) unsigned char config[64] = {1};
    for (int tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
    _tile_loadconfig(config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
  }
  void round() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
};
#elif defined(__AVX512BF16__)
struct Pairs {
  static constexpr double kOperations = 2.0 * kSums * 32;
  __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f003f00), b = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  __m512 sums[kSums] = {};
  void round() {
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b), keep(sum);
  }
};
#else
struct Pairs {
  static constexpr double kOperations = 0;
  Pairs() { std::exit(3); }
  void round() {}
};
#endif

// Operations per second of one thread.
template <class Loop>
double rate() {
  using Clock = std::chrono::steady_clock;
  Loop loop;
  const auto begin = Clock::now();
  double seconds = 0;
  long rounds = 0;
  for (; seconds < kSeconds; rounds += kRounds) {
    for (long i = 0; i < kRounds; ++i) loop.round();
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return Loop::kOperations * static_cast<double>(rounds) / seconds;
}

template <class Loop>
double all_at_once(int threads) {
  std::vector<double> rates(static_cast<size_t>(threads));
  std::atomic<int> ready{0};
  const auto run = [&](int number) {
    for (ready.fetch_add(1); ready.load() < threads;) std::this_thread::yield();
    rates[static_cast<size_t>(number)] = rate<Loop>();
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
  run(0);
  for (std::thread& other : others) other.join();
  double sum = 0;
  for (const double one : rates) sum += one;
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int threads = std::atoi(argv[1]);
  const bool pairs = std::atoi(argv[2]) != 0;
  if (threads < 1) return 2;
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const double found = pairs ? all_at_once<Pairs>(threads) : all_at_once<Floats>(threads);
    best = found > best ? found : best;
  }
  std::printf("%.4e\n", best);
}
