#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>

#include "cpu/common/isa_table.h"

namespace cnv2 {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
constexpr int kCount = sizeof(kNames) / sizeof(kNames[0]);
#define CNV2_BUILT(Set, ...) CpuIsa::k##Set,
constexpr CpuIsa kBuilt[] = {CNV2_ALL_ISAS(CNV2_BUILT, )};

CpuIsa best() {
  const CpuIsa here = detect_cpu_isa();
  CpuIsa found = CpuIsa::kScalar;
  for (CpuIsa isa : kBuilt) found = isa <= here ? isa : found;
  return found;
}

CpuIsa usual() {
  const CpuIsa isa = best_cpu_isa();
  return isa == CpuIsa::kAvx512Bf16 && bfloat16_pairs_are_slow() ? CpuIsa::kAvx512 : isa;
}

std::atomic<CpuIsa>& current() {
  static std::atomic<CpuIsa> isa{usual()};
  return isa;
}

}  // namespace

CpuIsa best_cpu_isa() {
  static const CpuIsa isa = best();
  return isa;
}

CpuIsa current_cpu_isa() { return current().load(std::memory_order_relaxed); }

const char* isa_name(CpuIsa isa) { return kNames[static_cast<int>(isa)]; }

bool set_cpu_isa(CpuIsa isa) {
  const bool built = std::find(std::begin(kBuilt), std::end(kBuilt), isa) != std::end(kBuilt);
  if (isa > best_cpu_isa() || !built) return false;
  current().store(isa, std::memory_order_relaxed);
  return true;
}

}  // namespace cnv2

const char* cnv2_cpu_isa() { return cnv2::isa_name(cnv2::current_cpu_isa()); }

const char* cnv2_best_cpu_isa() { return cnv2::isa_name(cnv2::best_cpu_isa()); }

int cnv2_set_cpu_isa(const char* name) {
  for (int isa = 0; isa < cnv2::kCount; ++isa) {
    if (std::strcmp(name, cnv2::kNames[isa]) == 0) return cnv2::set_cpu_isa(static_cast<cnv2::CpuIsa>(isa)) ? 1 : 0;
  }
  return 0;
}
