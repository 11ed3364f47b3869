// Groups of adjacent rows that share one GRN norm. No framework header.
#pragma once

#include <cstdint>

namespace cnv2 {

struct RowGroups {
  int64_t rows;            // of all groups
  int64_t count;           // of groups
  int64_t rows_per_group;  // where `offsets` is null
  const int* offsets;      // [count + 1]: the first row of each group, then the number of rows
};

}  // namespace cnv2
