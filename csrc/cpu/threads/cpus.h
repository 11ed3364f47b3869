// How many CPUs this process may keep busy. No framework header.
#pragma once

#include <cstdint>
#include <string>

namespace cnv2 {

// The CPUs of the process's affinity mask (mask.h), or those that its cgroups' quotas come to, rounded up, if these are
// fewer. At least 1. What has changed meanwhile is noticed within a second.
int64_t usable_cpus();

// For tests and comparisons: usable_cpus() is `number` from now on; 0: what the system says.
void assume_cpus(int64_t number);

// Lets this thread run on the CPUs of the process, whatever the thread that started it was bound to.
void use_cpus_of_process() noexcept;

// Grows when usable_cpus() finds another affinity mask than before: threads bound to the old one may bind themselves
// anew.
uint64_t masks_seen();

// What the quotas come to in a hierarchy mounted at `mount`, for a process whose /proc/self/cgroup reads `groups`:
// those of its group and of all groups above. Version 2 (cpu.max) and 1 (cpu.cfs_quota_us). 0: there is none.
int64_t cpus_of_quota(const std::string& mount, const std::string& groups);

}  // namespace cnv2

// For Python, by ctypes.
extern "C" {
__attribute__((visibility("default"))) int cnv2_usable_cpus();
__attribute__((visibility("default"))) void cnv2_assume_cpus(int number);
}
