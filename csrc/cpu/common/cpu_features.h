// What the CPU this process runs on can execute, operating system support included. No framework header.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cnv2 {

// Ordered: every later one implies the earlier ones.
enum class CpuIsa : int { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4 };

namespace {

// Asks the operating system for the tile registers: Linux saves them only for processes that did.
inline bool tiles_permitted() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

inline CpuIsa detect_cpu_isa() {
#if defined(__x86_64__) || defined(__i386__)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return CpuIsa::kScalar;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kNeeded = kFma | kOsxsave | kAvx | kF16c;
  if ((ecx & kNeeded) != kNeeded) return CpuIsa::kScalar;
  // The registers that the operating system saves at a context switch: without them the instructions trap.
  uint32_t xcr0, high;
  __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  if ((xcr0 & 0x6u) != 0x6u) return CpuIsa::kScalar;  // xmm, ymm
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return CpuIsa::kScalar;
  constexpr unsigned kAmxTiles = 1u << 24 | 1u << 22;  // with products of bfloat16
  const bool tiles = (edx & kAmxTiles) == kAmxTiles && (xcr0 & 0x60000u) == 0x60000u;
  if (!(ebx & (1u << 5))) return CpuIsa::kScalar;  // AVX2
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr unsigned kAvx512 = kF | kDq | kBw | kVl;
  if ((ebx & kAvx512) != kAvx512 || (xcr0 & 0xe6u) != 0xe6u) return CpuIsa::kAvx2;  // masks, zmm
  if (eax < 1 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return CpuIsa::kAvx512;
  if (!(eax & (1u << 5))) return CpuIsa::kAvx512;
  return tiles && tiles_permitted() ? CpuIsa::kAmx : CpuIsa::kAvx512Bf16;
#else
  return CpuIsa::kScalar;
#endif
}

// Whether VDPBF16PS is slower than two multiply-adds of floats: on Intel's CPUs with AMX (one takes as long as four).
// Some virtual machines hide AMX, but not AVX512_FP16, which came with it.
inline bool bfloat16_pairs_are_slow() {
#if defined(__x86_64__) || defined(__i386__)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx) || ebx != signature_INTEL_ebx) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & (1u << 23));
#else
  return false;
#endif
}

}  // namespace
}  // namespace cnv2
