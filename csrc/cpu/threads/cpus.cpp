#include "cpus.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include "mask.h"

namespace cnv2 {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// "quota period", the quota "max" or negative: none.
double cpus_of(const std::string& quota_and_period) {
  std::istringstream in(quota_and_period);
  double quota = 0, period = 0;
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return quota / period;
}

double least(double a, double b) { return a <= 0 ? b : b <= 0 ? a : std::min(a, b); }

// The least quota of the group and of those above it. In a container the path may be that of the host, of which the
// mount shows only the last part or nothing: groups that are not there have no quota.
template <class Quota>
double least_upwards(std::string group, const Quota& quota) {
  double found = 0;
  for (;; group.resize(group.rfind('/'))) {
    found = least(found, cpus_of(quota(group)));
    if (group.rfind('/') == std::string::npos) return found;
  }
}

std::atomic<uint64_t> masks{0};  // how often the process's mask was another one

#if defined(__linux__)
// No lock, which a child of a fork might find locked for ever.
void note(const CpuMask& mask) {
  static std::atomic<uint64_t> before{0};
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  const auto* bytes = reinterpret_cast<const unsigned char*>(mask.sets);
  for (size_t i = 0; i < mask.bytes; ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
  if (before.exchange(hash) != hash) masks.fetch_add(1, std::memory_order_release);
}
#endif

int64_t ask_system() {
  int64_t cpus = std::thread::hardware_concurrency();
#if defined(__linux__)
  const CpuMask mask = mask_of_process();
  note(mask);
  const int64_t allowed = mask.count();
  if (allowed > 0) cpus = allowed;
  const int64_t quota = cpus_of_quota("/sys/fs/cgroup", text_of("/proc/self/cgroup"));
  if (quota > 0) cpus = std::min(cpus, quota);
#endif
  return std::max<int64_t>(cpus, 1);
}

std::atomic<int64_t> assumed{0}, known{0}, ask_again{0};

}  // namespace

int64_t usable_cpus() {
  const int64_t set = assumed.load(std::memory_order_relaxed);
  if (set > 0) return set;
  using Clock = std::chrono::steady_clock;
  const int64_t now = Clock::now().time_since_epoch() / std::chrono::milliseconds(1);
  int64_t due = ask_again.load(std::memory_order_relaxed), cpus = known.load(std::memory_order_relaxed);
  if (cpus > 0 && (now < due || !ask_again.compare_exchange_strong(due, now + 1000))) return cpus;
  cpus = ask_system();
  known.store(cpus, std::memory_order_relaxed);
  ask_again.store(now + 1000, std::memory_order_relaxed);
  return cpus;
}

uint64_t masks_seen() { return masks.load(std::memory_order_acquire); }

void assume_cpus(int64_t number) { assumed.store(number, std::memory_order_relaxed); }

void use_cpus_of_process() noexcept {
#if defined(__linux__)
  const CpuMask mask = mask_of_process();
  if (mask.bytes > 0) sched_setaffinity(0, mask.bytes, mask.sets);
#endif
}

int64_t cpus_of_quota(const std::string& mount, const std::string& groups) {
  double found = 0;
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // "number:controllers:/path"; version 2: "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers == ",,") {
      found =
          least(found, least_upwards(group, [&](const std::string& at) { return text_of(mount + at + "/cpu.max"); }));
    } else if (controllers.find(",cpu,") != std::string::npos) {
      found = least(found, least_upwards(group, [&](const std::string& at) {
                      const std::string files = mount + "/cpu" + at + "/cpu.cfs_";
                      return text_of(files + "quota_us") + " " + text_of(files + "period_us");
                    }));
    }
  }
  return static_cast<int64_t>(std::ceil(found));
}

}  // namespace cnv2

int cnv2_usable_cpus() { return static_cast<int>(cnv2::usable_cpus()); }

void cnv2_assume_cpus(int number) { cnv2::assume_cpus(number); }
