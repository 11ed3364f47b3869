// Lets the tests choose the device that launchers see.
#include "cuda_emulation.h"

extern "C" __attribute__((visibility("default"))) void cuda_emulation_set_device(int processors, int64_t shared_bytes,
                                                                                 int64_t shared_bytes_per_processor,
                                                                                 int capability) {
  cuda_emulation::device = {processors, shared_bytes, shared_bytes_per_processor, capability};
}
