# _C_cpu.so. Each kernel is compiled once per instruction set, from csrc/cpu/<op>/<op>_<isa>.cpp, with flags for that
# file alone; which one runs is decided at run time. Nothing else is compiled for more than the baseline CPU. Not every
# kernel has one for each: the others use that of the next lower set. The kernels know nothing of torch: the target
# `cpu_kernels` can be built before torch is installed, and is not built again for another torch.
include(CheckCXXCompilerFlag)
find_package(Threads REQUIRED)

set(CNV2_CPU_OPS dwconv grn layer_norm mlp_grn patch_conv)
set(CNV2_CPU_KERNELS ${CNV2_CPU_OPS} digest mean)  # the last two are no operators of their own

set(BUILD_INFO_ISA scalar)
set(isa_flags_scalar "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(isa_flags_avx2 -mavx2 -mfma -mf16c)
  set(isa_flags_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c)
  set(isa_flags_avx512_bf16 ${isa_flags_avx512} -mavx512bf16)
  set(isa_flags_amx ${isa_flags_avx512_bf16} -mamx-tile -mamx-bf16)
  foreach(isa avx2 avx512 avx512_bf16 amx)
    string(REPLACE ";" " " flags "${isa_flags_${isa}}")
    check_cxx_compiler_flag("${flags}" CNV2_COMPILER_HAS_${isa})
    if(CNV2_COMPILER_HAS_${isa})
      list(APPEND BUILD_INFO_ISA ${isa})
    endif()
  endforeach()
endif()

# What every instruction set shares: compiled for the baseline CPU.
set(kernels csrc/cpu/common/isa.cpp csrc/cpu/common/packed.cpp csrc/cpu/common/scratch.cpp csrc/cpu/common/sources.cpp
            csrc/cpu/dwconv/run.cpp csrc/cpu/block/block.cpp csrc/cpu/model/program.cpp csrc/cpu/model/pack.cpp
            csrc/cpu/model/run.cpp csrc/cpu/threads/cpus.cpp csrc/cpu/threads/pool.cpp)
set(bindings csrc/torch/block_cpu.cpp csrc/torch/model_cpu.cpp)
foreach(op ${CNV2_CPU_OPS})
  list(APPEND bindings csrc/torch/${op}_cpu.cpp)
endforeach()
foreach(op ${CNV2_CPU_KERNELS})
  foreach(isa ${BUILD_INFO_ISA})
    set(source csrc/cpu/${op}/${op}_${isa}.cpp)
    if(isa MATCHES "^(avx512|avx512_bf16|amx)$" AND NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source})
      continue()
    endif()
    list(APPEND kernels ${source})
    # GCC 12 warns about its own AVX-512 intrinsics (GCC bug 105593).
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
      "${isa_flags_${isa}};-fno-math-errno;-Wno-uninitialized;-Wno-maybe-uninitialized")
  endforeach()
endforeach()

set(have "")
foreach(isa ${BUILD_INFO_ISA})
  string(TOUPPER ${isa} upper)
  list(APPEND have CNV2_HAVE_${upper})
endforeach()
add_library(cpu_kernels OBJECT ${kernels})
cnv2_compile_ours(cpu_kernels)
target_compile_definitions(cpu_kernels PRIVATE ${have})

if(TORCH_ROOT)
  cnv2_add_library(_C_cpu ${bindings} $<TARGET_OBJECTS:cpu_kernels>)
  target_compile_definitions(_C_cpu PRIVATE ${have})
  target_link_libraries(_C_cpu PRIVATE Threads::Threads)
endif()
