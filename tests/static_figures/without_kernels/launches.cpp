// Lets Python read the count.
#include "cuda/common/api.h"

extern "C" __attribute__((visibility("default"))) int64_t static_figures_launches() { return cuda_emulation::launches; }
