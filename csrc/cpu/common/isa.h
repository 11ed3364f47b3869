// The instruction set that the CPU kernels use: the best the machine has, unless lowered.
#pragma once

#include "cpu/common/cpu_features.h"

namespace cnv2 {

// The best instruction set that both this machine and this build have.
CpuIsa best_cpu_isa();

// The one in use. An op that has no kernels of its own for it uses those of the next lower one: isa_table.h.
CpuIsa current_cpu_isa();

// "scalar", "avx2", "avx512", "avx512_bf16" or "amx".
const char* isa_name(CpuIsa isa);

// Uses `isa` from the next call on; false, changing nothing, if the machine or the build does not have it.
bool set_cpu_isa(CpuIsa isa);

}  // namespace cnv2

// For Python (ctypes). Names: "scalar", "avx2", "avx512", "avx512_bf16", "amx".
extern "C" {
__attribute__((visibility("default"))) const char* cnv2_cpu_isa();
__attribute__((visibility("default"))) const char* cnv2_best_cpu_isa();
// 1: done. 0: unknown name, or not available here; nothing changed.
__attribute__((visibility("default"))) int cnv2_set_cpu_isa(const char* name);
}
