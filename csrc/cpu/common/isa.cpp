#include "isa.h"

#include <atomic>
#include <cstring>

namespace cnv2 {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
constexpr int kCount = sizeof(kNames) / sizeof(kNames[0]);
constexpr CpuIsa kLast = static_cast<CpuIsa>(kCount - 1);

bool built(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      return true;
    case CpuIsa::kAvx2:
#ifdef CNV2_HAVE_AVX2
      return true;
#else
      return false;
#endif
    case CpuIsa::kAvx512:
#ifdef CNV2_HAVE_AVX512
      return true;
#else
      return false;
#endif
    case CpuIsa::kAvx512Bf16:
#ifdef CNV2_HAVE_AVX512_BF16
      return true;
#else
      return false;
#endif
    case CpuIsa::kAmx:
#ifdef CNV2_HAVE_AMX
      return true;
#else
      return false;
#endif
  }
  return false;
}

CpuIsa best() {
  for (int isa = static_cast<int>(detect_cpu_isa()); isa > 0; --isa) {
    if (built(static_cast<CpuIsa>(isa))) return static_cast<CpuIsa>(isa);
  }
  return CpuIsa::kScalar;
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

CpuIsa current_cpu_isa(CpuIsa highest) {
  const CpuIsa isa = current().load(std::memory_order_relaxed);
  return isa < highest ? isa : highest;
}

bool set_cpu_isa(CpuIsa isa) {
  if (isa > best_cpu_isa() || !built(isa)) return false;
  current().store(isa, std::memory_order_relaxed);
  return true;
}

}  // namespace cnv2

const char* cnv2_cpu_isa() { return cnv2::kNames[static_cast<int>(cnv2::current_cpu_isa(cnv2::kLast))]; }

const char* cnv2_best_cpu_isa() { return cnv2::kNames[static_cast<int>(cnv2::best_cpu_isa())]; }

int cnv2_set_cpu_isa(const char* name) {
  for (int isa = 0; isa < cnv2::kCount; ++isa) {
    if (std::strcmp(name, cnv2::kNames[isa]) == 0) return cnv2::set_cpu_isa(static_cast<cnv2::CpuIsa>(isa)) ? 1 : 0;
  }
  return 0;
}
