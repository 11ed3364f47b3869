// The set of CPUs that this process may use, on Linux. No framework header.
#pragma once

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <vector>

// Of the OpenMP runtime that the process has loaded; null without one.
extern "C" {
int omp_get_num_places() __attribute__((weak));
int omp_get_place_num_procs(int place) __attribute__((weak));
void omp_get_place_proc_ids(int place, int* ids) __attribute__((weak));
}

namespace cnv2 {
namespace {

// On the stack, and nothing here throws: a worker may ask where there is no memory left.
struct CpuMask {
  static constexpr int kMostSets = 16;  // 16,384 CPUs
  cpu_set_t sets[kMostSets] = {};
  size_t bytes = 0;  // as many as the kernel's mask is long; 0: it is not known

  int64_t count() const noexcept { return bytes == 0 ? 0 : CPU_COUNT_S(bytes, sets); }
  bool has(int cpu) const noexcept { return CPU_ISSET_S(cpu, bytes, sets); }
  int cpus() const noexcept { return static_cast<int>(8 * bytes); }  // that it has a bit for
};

CpuMask mask_of_first_thread() noexcept {
  CpuMask mask;
  for (size_t sets = 1; sets <= CpuMask::kMostSets; sets *= 2) {
    const size_t bytes = sets * sizeof(cpu_set_t);
    if (sched_getaffinity(getpid(), bytes, mask.sets) == 0) {
      mask.bytes = bytes;
      break;
    }
    if (errno != EINVAL) break;
  }
  return mask;
}

// For each CPU the OpenMP place that it belongs to, -1: none. Empty where OpenMP has no places.
std::vector<int> openmp_places() {
  std::vector<int> place_of_cpu;
  if (omp_get_num_places == nullptr || omp_get_place_num_procs == nullptr || omp_get_place_proc_ids == nullptr)
    return place_of_cpu;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> cpus(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, cpus.data());
    for (const int cpu : cpus) {
      if (cpu < 0 || cpu >= CpuMask::kMostSets * CPU_SETSIZE) continue;
      if (place_of_cpu.size() <= static_cast<size_t>(cpu)) place_of_cpu.resize(static_cast<size_t>(cpu) + 1, -1);
      place_of_cpu[static_cast<size_t>(cpu)] = place;
    }
  }
  return place_of_cpu;
}

const std::vector<int> place_of_cpu = openmp_places();  // the environment says so, once and for all

// The mask of the process's first thread, unless OpenMP has bound that thread to one of its places (OMP_PROC_BIND,
// OMP_PLACES, GOMP_CPU_AFFINITY): then the CPUs of all places.
CpuMask mask_of_process() noexcept {
  CpuMask mask = mask_of_first_thread();
  const int known = static_cast<int>(place_of_cpu.size());
  int bound_to = -1;
  for (int cpu = 0; cpu < mask.cpus(); ++cpu) {
    if (!mask.has(cpu)) continue;
    const int place = cpu < known ? place_of_cpu[static_cast<size_t>(cpu)] : -1;
    if (place < 0 || (bound_to >= 0 && place != bound_to)) return mask;
    bound_to = place;
  }
  for (int cpu = 0; cpu < known && cpu < mask.cpus(); ++cpu) {
    if (place_of_cpu[static_cast<size_t>(cpu)] >= 0) CPU_SET_S(cpu, mask.bytes, mask.sets);
  }
  return mask;
}

}  // namespace
}  // namespace cnv2
#endif
