// The set of CPUs that this process may use, on Linux. No framework header.
#pragma once

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <utility>
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
  bool has(int cpu) const noexcept { return CPU_ISSET_S(static_cast<size_t>(cpu), bytes, sets); }
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

// For each CPU whether it is online; empty where that is not known.
std::vector<bool> online_cpus() {
  std::vector<bool> online;
  std::ifstream file("/sys/devices/system/cpu/online");  // "0-3,8,10-11"
  for (int first = 0, last = 0; file >> first; file.ignore()) {
    last = first;
    if (file.peek() == '-') file.ignore() >> last;
    if (last >= CpuMask::kMostSets * CPU_SETSIZE) break;
    if (online.size() <= static_cast<size_t>(last)) online.resize(static_cast<size_t>(last) + 1);
    for (int cpu = first; cpu <= last; ++cpu) online[static_cast<size_t>(cpu)] = true;
  }
  return online;
}

// The CPUs of each OpenMP place that are online.
std::vector<std::vector<int>> openmp_places() {
  if (omp_get_num_places == nullptr || omp_get_place_num_procs == nullptr || omp_get_place_proc_ids == nullptr)
    return {};
  const std::vector<bool> online = online_cpus();
  std::vector<std::vector<int>> places;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> cpus(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, cpus.data());
    const auto absent = [&](int cpu) {
      if (cpu < 0 || cpu >= CpuMask::kMostSets * CPU_SETSIZE) return true;
      const auto at = static_cast<size_t>(cpu);
      return !online.empty() && (at >= online.size() || !online[at]);
    };
    cpus.erase(std::remove_if(cpus.begin(), cpus.end(), absent), cpus.end());
    places.push_back(std::move(cpus));
  }
  return places;
}

const std::vector<std::vector<int>> places = openmp_places();  // the environment says so, once and for all

// The mask of the process's first thread, unless it is exactly one of OpenMP's places, to which OpenMP has bound that
// thread (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY): then the CPUs of all places.
CpuMask mask_of_process() noexcept {
  CpuMask mask = mask_of_first_thread();
  const auto is_mask = [&](const std::vector<int>& place) {
    const auto in_mask = [&](int cpu) { return mask.has(cpu); };
    return static_cast<int64_t>(place.size()) == mask.count() && std::all_of(place.begin(), place.end(), in_mask);
  };
  if (mask.bytes == 0 || std::none_of(places.begin(), places.end(), is_mask)) return mask;
  for (const std::vector<int>& place : places) {
    for (const int cpu : place) CPU_SET_S(static_cast<size_t>(cpu), mask.bytes, mask.sets);
  }
  return mask;
}

}  // namespace
}  // namespace cnv2
#endif
