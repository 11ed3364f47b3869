# _C_cuda.so: the CUDA kernels, with the CUDA runtime inside (static), for every architecture of TORCH_CUDA_ARCH_LIST.
set(CMAKE_CUDA_ARCHITECTURES OFF)  # given per target, below
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
include(arch)

file(GLOB sources CONFIGURE_DEPENDS csrc/cuda/*/*.cu csrc/torch/*_cuda.cpp)
cnv2_add_library(_C_cuda ${sources})
cnv2_cuda_architectures(archs)
set_target_properties(_C_cuda PROPERTIES
  CUDA_ARCHITECTURES "${archs}" CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
target_compile_definitions(_C_cuda PRIVATE USE_CUDA)  # torch's headers then declare the current stream
target_include_directories(_C_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  target_compile_options(_C_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
endif()
set(CNV2_NVCC_THREADS 2 CACHE STRING "Architectures that one nvcc compiles at a time")
target_compile_options(_C_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--threads=${CNV2_NVCC_THREADS}>)
target_link_libraries(_C_cuda PRIVATE CUDA::cudart_static)

# The library must record that it needs libtorch_cuda.so, which a CPU-only torch does not have: without the record it
# loads on no CUDA torch (undefined symbol aoti_torch_get_current_cuda_stream). There, an empty library of that name
# stands in; only the name is kept.
if(EXISTS "${TORCH_ROOT}/lib/libtorch_cuda.so")
  set(torch_cuda "${TORCH_ROOT}/lib/libtorch_cuda.so")
else()
  file(WRITE "${CMAKE_BINARY_DIR}/torch_cuda_stub.cpp" "")
  add_library(torch_cuda_stub SHARED "${CMAKE_BINARY_DIR}/torch_cuda_stub.cpp")
  set_target_properties(torch_cuda_stub PROPERTIES
    OUTPUT_NAME torch_cuda NO_SONAME OFF LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/stub")
  add_dependencies(_C_cuda torch_cuda_stub)
  set(torch_cuda "${CMAKE_BINARY_DIR}/stub/libtorch_cuda.so")
endif()
target_link_options(_C_cuda PRIVATE "LINKER:--push-state,--no-as-needed" "${torch_cuda}" "LINKER:--pop-state")

set(BUILD_INFO_CUDA "${CMAKE_CUDA_COMPILER_VERSION}")
set(BUILD_INFO_ARCHS "${archs}")
