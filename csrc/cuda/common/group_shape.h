// Rows in groups, as the kernels that walk them take them. No framework header.
#pragma once

#include "common/dtype.h"
#include "common/row_groups.h"
#include "cuda/common/api.h"

namespace cnv2 {

struct GroupShape {
  RowGroups groups;
  int64_t columns;     // of a row
  DType dtype;         // of the rows
  bool aligned;        // whether rows are made of 16-byte vectors, and all pointers to rows are aligned to them
  int64_t splits = 0;  // blocks that share a group, the leading size of their partial sums: see set_splits in grn.h
};

}  // namespace cnv2
