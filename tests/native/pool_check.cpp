// The pool of cpu/threads alone: ranges, callers side by side and one in another, exceptions, fork, quotas.
// Prints "N checks, M failed".
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/common/denormals.h"
#include "cpu/common/parallel.h"
#include "cpu/threads/cpus.cpp"
#include "cpu/threads/pool.cpp"

namespace cnv2 {
namespace {

int checks = 0, failures = 0;

void check(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  ++failures;
  std::printf("failed: %s\n", what.c_str());
}

// Of a body: waits until another thread has entered it too. The caller thereby proves that a worker helps.
class Company {
 public:
  void wait() {
    const auto me = std::this_thread::get_id();
    std::thread::id none;
    if (!first_.compare_exchange_strong(none, me) && none != me) both_ = true;
    while (!both_) std::this_thread::yield();
  }

 private:
  std::atomic<std::thread::id> first_{};
  std::atomic<bool> both_{false};
};

// Every index once; no range empty, none that is shorter than the grain but where a share ends.
bool covers(int64_t begin, int64_t end, int64_t grain, int64_t threads) {
  const int64_t count = end > begin ? end - begin : 0;
  std::vector<std::atomic<int>> met(static_cast<size_t>(count));
  std::atomic<int> small{0}, empty{0};
  Parallel{threads}(begin, end, grain, [&](int64_t from, int64_t to) {
    small += to - from < grain, empty += to <= from;
    for (int64_t i = from; i < to; ++i) ++met[static_cast<size_t>(i - begin)];
  });
  for (const auto& times : met) {
    if (times != 1) return false;
  }
  return empty == 0 && small <= threads;
}

void ranges() {
  for (int64_t threads : {1, 2, 3, 8, 300}) {
    for (int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 50, 5000})
        check(covers(-5, -5 + count, grain, threads), "ranges of " + std::to_string(count) + ", grain " +
                                                          std::to_string(grain) + ", threads " +
                                                          std::to_string(threads));
    }
  }
  check(covers(3, -3, 1, 4), "a range that ends before it begins");
}

void help() {
  for (int threads : {2, 4, 2}) {
    Company company;
    Parallel{threads}(0, 100, 1, [&](int64_t, int64_t) { company.wait(); });
    check(true, "a worker helps");
  }
}

// What a worker is like: no signals, subnormal numbers are zero. The caller is as it was.
void workers() {
  Company company;
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> quiet{false}, heard{false}, flushed{false}, untouched{true};
  volatile float least = std::numeric_limits<float>::min();
  Parallel{2}(0, 100, 1, [&](int64_t, int64_t) {
    company.wait();
    const bool zero = least * 0.5f == 0.f;
    if (std::this_thread::get_id() == caller) {
      if (zero) untouched = false;
      return;
    }
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    quiet = sigismember(&blocked, SIGINT) == 1 && sigismember(&blocked, SIGALRM) == 1;
    heard = sigismember(&blocked, SIGSEGV) == 0 && sigismember(&blocked, SIGBUS) == 0;
    flushed = zero;
  });
  check(quiet, "workers block signals");
  check(heard, "but not those of their own faults");
  static_assert(noexcept(use_cpus_of_process()), "a worker starts where no memory is left");
  check(untouched, "the pool leaves the caller's modes alone");
#if defined(__SSE__) || defined(__aarch64__)
  check(flushed, "workers flush");
  {
    const FlushDenormals flush;
    check(least * 0.5f == 0.f, "flushed within the scope");
  }
#endif
  check(least * 0.5f != 0.f, "not flushed behind the scope");
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  check(sigismember(&blocked, SIGINT) == 0, "the caller takes signals");
}

void nested() {
  std::atomic<int64_t> sum{0};
  std::atomic<bool> inline_{true};
  Parallel{3}(0, 30, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const auto me = std::this_thread::get_id();
      Parallel{3}(0, 100, 1, [&](int64_t begin, int64_t end) {
        if (std::this_thread::get_id() != me || begin != 0 || end != 100) inline_ = false;
        sum += end - begin;
      });
    }
  });
  check(sum == 3000 && inline_, "a call in a call runs on its own thread");
}

void callers() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> all;
  for (int64_t caller = 0; caller < 8; ++caller) {
    all.emplace_back([&, caller] {
      for (int64_t call = 0; call < 100; ++call)
        wrong += !covers(caller, caller + 17 * call, 1 + call % 3, 1 + call % 5);
    });
  }
  for (std::thread& t : all) t.join();
  check(wrong == 0, "eight callers");
}

// A thread for each share, as a framework would lend them. The pool's are left alone.
void on_threads(int64_t shares, void (*share)(void*, int64_t), void* context) {
  std::vector<std::thread> all;
  for (int64_t number = 1; number < shares; ++number) all.emplace_back([=] { share(context, number); });
  share(context, 0);
  for (std::thread& t : all) t.join();
}

void teams() {
  const Parallel parallel{3, on_threads};
  volatile float least = std::numeric_limits<float>::min();
  std::atomic<int64_t> sum{0};
  std::atomic<bool> flushed{true}, inline_{true};
  Company company;
  parallel(0, 100, 1, [&](int64_t from, int64_t to) {
    company.wait();
    const auto me = std::this_thread::get_id();
    if (least * 0.5f != 0.f) flushed = false;
    parallel(0, 10, 1, [&](int64_t, int64_t) { inline_ = inline_ && std::this_thread::get_id() == me; });
    sum += to - from;
  });
  check(sum == 100 && inline_, "threads of a team, and a call in a call");
#if defined(__SSE__) || defined(__aarch64__)
  check(flushed, "a team flushes");
#endif
  check(least * 0.5f != 0.f, "its caller does not, afterwards");
  bool caught = false;
  try {
    parallel(0, 100, 1, [&](int64_t from, int64_t) {
      if (from == 0) throw std::runtime_error("of a team");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  check(caught, "an exception of a team");
  check(covers(0, 100, 1, 3), "the pool, after a team");
}

// While one caller and its worker stand still, another call ends, with other workers or, on two CPUs, alone.
void standstill(int64_t cpus) {
  assume_cpus(cpus);
  std::atomic<int> inside_body{0};
  std::atomic<bool> go_on{false};
  std::thread stuck([&] {
    Parallel{2}(0, 2, 1, [&](int64_t, int64_t) {
      ++inside_body;
      while (!go_on) std::this_thread::yield();
    });
  });
  while (inside_body < 2) std::this_thread::yield();
  check(covers(0, 1000, 1, 2), "a call beside one that stands still");
  go_on = true;
  stuck.join();
  assume_cpus(4);
}

template <class Error>
bool throws(bool by_worker) {
  Company company;
  const auto caller = std::this_thread::get_id();
  try {
    Parallel{2}(0, 100, 1, [&](int64_t, int64_t) {
      company.wait();
      if ((std::this_thread::get_id() != caller) == by_worker) throw Error("from a body");
    });
  } catch (const Error& error) {
    return std::string(error.what()) == "from a body" && covers(0, 100, 1, 2);
  }
  return false;
}

struct NoMemory : std::bad_alloc {
  explicit NoMemory(const char*) {}
  const char* what() const noexcept override { return "from a body"; }
};

void exceptions() {
  for (bool by_worker : {false, true}) {
    check(throws<std::runtime_error>(by_worker), "an exception reaches the caller");
    check(throws<NoMemory>(by_worker), "bad_alloc reaches the caller");
  }
  bool caught = false;
  try {
    Parallel{1}(0, 10, 1, [](int64_t, int64_t) { throw std::runtime_error("alone"); });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  check(caught, "an exception of a single thread");
}

#if !defined(__SANITIZE_THREAD__)
// Whether a child computes with help, within a minute.
bool child_works() {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    Company company;
    Parallel{2}(0, 100, 1, [&](int64_t, int64_t) { company.wait(); });
    _exit(covers(0, 1000, 1, 3) ? 0 : 1);
  }
  int status = 1;
  waitpid(pid, &status, 0);
  return status == 0;
}

void forks() {
  check(child_works(), "a child");
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < 3; ++i) {
    busy.emplace_back([&] {
      while (!stop) covers(0, 50, 1, 3);
    });
  }
  bool all = true;
  for (int i = 0; i < 20; ++i) all &= child_works();
  stop = true;
  for (std::thread& t : busy) t.join();
  check(all, "children while other threads are in calls");
  check(covers(0, 1000, 1, 3), "the parent, afterwards");
}
#endif

void quotas(const std::string& folder) {
  const auto write = [&](const std::string& file, const std::string& text) {
    const std::filesystem::path path = folder + "/" + file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  };
  write("v2/cpu.max", "max 100000");
  write("v2/a/cpu.max", "250000 100000");
  write("v2/a/b/cpu.max", "max 100000");
  write("v2/a/c/cpu.max", "50000 100000");
  write("v1/cpu/cpu.cfs_quota_us", "-1");
  write("v1/cpu/cpu.cfs_period_us", "100000");
  write("v1/cpu/x/cpu.cfs_quota_us", "400000");
  write("v1/cpu/x/cpu.cfs_period_us", "100000");
  const struct {
    const char *mount, *groups;
    int64_t cpus;
  } cases[] = {
      {"v2", "0::/\n", 0},
      {"v2", "0::/a\n", 3},
      {"v2", "0::/a/b\n", 3},
      {"v2", "0::/a/c\n", 1},
      {"v2", "0::/not/here\n", 0},
      {"v1", "3:cpuacct,cpu:/x\n2:memory:/y\n", 4},
      {"v1", "3:cpu:/x/of/the/host\n0::/\n", 4},
      {"v1", "2:cpuacct:/x\n1:cpuset:/x\n", 0},
      {"v1", "nonsense\n:\n", 0},
      {"none", "", 0},
  };
  for (const auto& c : cases)
    check(cpus_of_quota(folder + "/" + c.mount, c.groups) == c.cpus,
          std::string("quota of ") + c.mount + " " + c.groups);
}

}  // namespace
}  // namespace cnv2

int main(int, char** arguments) {
  using namespace cnv2;
  check(usable_cpus() >= 1 && usable_cpus() <= std::max(1u, std::thread::hardware_concurrency()), "CPUs");
  assume_cpus(4);
  check(usable_cpus() == 4, "assumed CPUs");
  quotas(std::string(arguments[0]) + ".groups");
#if !defined(__SANITIZE_THREAD__)
  check(child_works(), "a child before the first call");
#endif
  ranges();
  help();
  workers();
  nested();
  callers();
  teams();
  standstill(4);
  standstill(2);
  exceptions();
#if !defined(__SANITIZE_THREAD__)
  forks();
#endif
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
