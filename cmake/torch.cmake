# The interface target `stable_torch`: torch's headers and libraries under the stable ABI of torch 2.10.
# No find_package(Torch): it wants a CUDA toolkit of its own and adds flags that are ours to choose.
set(CNV2_TORCH_TARGET "2.10")
if(TORCH_ROOT AND NOT EXISTS "${TORCH_ROOT}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "TORCH_ROOT='${TORCH_ROOT}' is no torch >= 2.10 package; pass -DTORCH_ROOT=<site-packages>/torch")
endif()

add_library(stable_torch INTERFACE)
target_include_directories(stable_torch SYSTEM INTERFACE "${TORCH_ROOT}/include")
target_compile_definitions(stable_torch INTERFACE TORCH_TARGET_VERSION=0x020a000000000000 TORCH_STABLE_ONLY)
target_link_libraries(stable_torch INTERFACE "${TORCH_ROOT}/lib/libtorch_cpu.so")

# Our include folders and warnings.
function(cnv2_compile_ours name)
  target_include_directories(${name} PRIVATE "${CMAKE_SOURCE_DIR}/csrc")
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
endfunction()

# A library named NAME.so from the given sources: no "lib", no rpath (torch is loaded already), installed flat.
function(cnv2_add_library name)
  add_library(${name} MODULE ${ARGN})
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX ".so" SKIP_BUILD_RPATH ON)
  cnv2_compile_ours(${name})
  target_link_libraries(${name} PRIVATE stable_torch)
  install(TARGETS ${name} LIBRARY DESTINATION .)
endfunction()
