// How the rows of a call are cut up. Chunks: whole groups whose hidden activations fit the cache together, or a slice
// of one group that alone does not. Blocks: up to kTilesPerBlock register tiles of one group; sums over rows are taken
// per block and added in order, so results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/common/rows.h"
#include "mlp_grn.h"

namespace cnv2 {
namespace {

struct RowBlock {
  int64_t begin, end;  // rows of the chunk
  int64_t group;       // of the chunk
};

struct RowChunk {
  int64_t begin, end;              // rows of the call
  int64_t group_begin, group_end;  // groups of the call
  bool whole;                      // the groups are complete
  int64_t rows() const { return end - begin; }
  int64_t groups() const { return group_end - group_begin; }
};

class RowPlan {
 public:
  static constexpr int kTilesPerBlock = 7;  // 98 rows of 14: 14 x 14, 28 x 28 and 56 x 56 planes divide evenly

  // `row_bytes`: of a row's hidden activations, all copies.
  RowPlan(const RowGroups& groups, int64_t row_bytes, int64_t held_bytes, int tile_rows)
      : groups_(groups), tile_rows_(tile_rows) {
    const int64_t held = held_bytes / row_bytes;
    held_rows_ = held > block_rows() ? held : block_rows();
    chunk_rows_ = kMlpGrnChunkRows < held_rows_ ? kMlpGrnChunkRows : held_rows_;
  }

  int64_t first_row(int64_t group) const { return cnv2::first_row(groups_, group); }
  int64_t block_rows() const { return static_cast<int64_t>(kTilesPerBlock) * tile_rows_; }

  // Groups [begin, end) from `begin` on that make the next chunk: as many as fit chunk_rows, at least one.
  int64_t chunk_end(int64_t begin) const {
    int64_t end = begin + 1;
    while (end < groups_.count && first_row(end + 1) - first_row(begin) <= chunk_rows_) ++end;
    return end;
  }

  // Whether the hidden activations of these groups are kept at once.
  bool held(int64_t begin, int64_t end) const { return first_row(end) - first_row(begin) <= held_rows_; }

  // Calls body(RowChunk) for groups [begin, end), which are held, or for the slices of the one group.
  template <class F>
  void each_slice(int64_t begin, int64_t end, const F& body) const {
    const int64_t first = first_row(begin), last = first_row(end);
    if (held(begin, end)) {
      if (last > first) body(RowChunk{first, last, begin, end, true});
      return;
    }
    const int64_t slice = held_rows_ / block_rows() * block_rows();
    for (int64_t row = first; row < last; row += slice) {
      body(RowChunk{row, row + slice < last ? row + slice : last, begin, end, false});
    }
  }

  // The blocks of a chunk, in the memory of `blocks` (at least max_blocks(chunk)); how many.
  int64_t cut(const RowChunk& chunk, RowBlock* blocks) const {
    int64_t count = 0;
    for (int64_t g = chunk.group_begin; g < chunk.group_end; ++g) {
      const int64_t first = first_row(g) > chunk.begin ? first_row(g) : chunk.begin;
      const int64_t last = first_row(g + 1) < chunk.end ? first_row(g + 1) : chunk.end;
      for (int64_t row = first; row < last; row += block_rows()) {
        const int64_t end = row + block_rows() < last ? row + block_rows() : last;
        blocks[count++] = {row - chunk.begin, end - chunk.begin, g - chunk.group_begin};
      }
    }
    return count;
  }
  int64_t max_blocks(const RowChunk& chunk) const { return chunk.rows() / block_rows() + chunk.groups(); }

 private:
  RowGroups groups_;
  int tile_rows_;
  int64_t held_rows_, chunk_rows_;
};

}  // namespace
}  // namespace cnv2
