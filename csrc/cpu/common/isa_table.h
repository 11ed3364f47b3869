// The choice of a kernel by instruction set: one table of function pointers per op and set, each defined in the op's
// <op>_<set>.cpp. Which sets a build has, CMake says by CNV2_HAVE_<SET>. No framework header.
#pragma once

#include "cpu/common/cpu_features.h"

#ifdef CNV2_HAVE_AVX2
#define CNV2_IF_AVX2(...) __VA_ARGS__
#else
#define CNV2_IF_AVX2(...)
#endif
#ifdef CNV2_HAVE_AVX512
#define CNV2_IF_AVX512(...) __VA_ARGS__
#else
#define CNV2_IF_AVX512(...)
#endif
#ifdef CNV2_HAVE_AVX512_BF16
#define CNV2_IF_AVX512_BF16(...) __VA_ARGS__
#else
#define CNV2_IF_AVX512_BF16(...)
#endif
#ifdef CNV2_HAVE_AMX
#define CNV2_IF_AMX(...) __VA_ARGS__
#else
#define CNV2_IF_AMX(...)
#endif

// Expands each(set, ...) for the sets of this build, lowest first: those that every op has, and all.
#define CNV2_FLOAT_ISAS(each, ...) \
  each(Scalar, __VA_ARGS__) CNV2_IF_AVX2(each(Avx2, __VA_ARGS__)) CNV2_IF_AVX512(each(Avx512, __VA_ARGS__))
#define CNV2_ALL_ISAS(each, ...)     \
  CNV2_FLOAT_ISAS(each, __VA_ARGS__) \
  CNV2_IF_AVX512_BF16(each(Avx512Bf16, __VA_ARGS__)) CNV2_IF_AMX(each(Amx, __VA_ARGS__))

#define CNV2_DECLARE_TABLE(Set, Table, prefix) extern const Table prefix##Set;
#define CNV2_TAKE_TABLE(Set, Table, prefix) \
  if (isa >= CpuIsa::k##Set) found = &prefix##Set;

// Declares the tables `prefix`Scalar, `prefix`Avx2, ... of the sets that `ISAS` expands, and defines choose(isa): the
// table of the highest set that is not above `isa`.
#define CNV2_ISA_TABLE(ISAS, Table, prefix, choose) \
  ISAS(CNV2_DECLARE_TABLE, Table, prefix)           \
  inline const Table& choose(CpuIsa isa) {          \
    const Table* found = &prefix##Scalar;           \
    ISAS(CNV2_TAKE_TABLE, Table, prefix)            \
    return *found;                                  \
  }
