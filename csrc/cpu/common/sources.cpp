#include "sources.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace cnv2 {
namespace {

constexpr int64_t kPiecesAtOnce = 64;  // worth waking a thread: some ten microseconds

int64_t item_bytes(const StridedArray& source) { return source.array.dtype == DType::kFloat32 ? 4 : 2; }

int64_t count_of(const StridedArray& source) {
  if (source.array.data == nullptr) return 0;
  int64_t count = 1;
  for (int d = 0; d < source.dims; ++d) count *= source.sizes[d];
  return count;
}

int64_t bytes_of(const StridedArray& source) { return count_of(source) * item_bytes(source); }

int64_t pieces_of(const StridedArray& source) { return (bytes_of(source) + kDigestPiece - 1) / kDigestPiece; }

StridedArray in_order(StridedArray source) {
  int64_t stride = 1;
  for (int d = source.dims - 1; d >= 0; --d) source.strides[d] = stride, stride *= source.sizes[d];
  return source;
}

bool is_in_order(const StridedArray& source) {
  const StridedArray wanted = in_order(source);
  for (int d = 0; d < source.dims; ++d) {
    if (source.sizes[d] != 1 && source.strides[d] != wanted.strides[d]) return false;
  }
  return true;
}

// Whether the elements lie in memory without gaps and without overlap, in whatever order.
bool is_dense(const StridedArray& source) {
  bool taken[StridedArray::kMostDims] = {};
  int64_t stride = 1;
  for (int found = 0; found < source.dims; ++found) {
    int next = -1;
    for (int d = 0; d < source.dims; ++d) {
      if (!taken[d] && (source.sizes[d] == 1 || source.strides[d] == stride)) next = d;
    }
    if (next < 0) return false;
    taken[next] = true;
    stride *= source.sizes[next];
  }
  return true;
}

// Elements [first, first + count), the last dimension fastest.
void gather(const StridedArray& source, int64_t first, int64_t count, unsigned char* out) {
  const auto* data = static_cast<const unsigned char*>(source.array.data);
  const auto item = static_cast<size_t>(item_bytes(source));
  int64_t index[StridedArray::kMostDims] = {}, at = 0;
  for (int d = source.dims - 1; d >= 0; --d) {
    index[d] = first % source.sizes[d], first /= source.sizes[d];
    at += index[d] * source.strides[d];
  }
  for (; count > 0; --count, out += item) {
    std::memcpy(out, data + at * static_cast<int64_t>(item), item);
    for (int d = source.dims - 1; d >= 0; --d) {
      at += source.strides[d];
      if (++index[d] < source.sizes[d]) break;
      at -= index[d] * source.strides[d], index[d] = 0;
    }
  }
}

// Calls body(source, its number, first byte, bytes, number among all pieces) for pieces [begin, end).
template <class F>
void each_piece(const Sources& sources, int64_t begin, int64_t end, const F& body) {
  int64_t first = 0;
  for (size_t s = 0; s < sources.size() && first < end; ++s) {
    const int64_t pieces = pieces_of(sources[s]), bytes = bytes_of(sources[s]);
    for (int64_t p = std::max(begin, first); p < std::min(end, first + pieces); ++p) {
      const int64_t from = (p - first) * kDigestPiece;
      body(sources[s], s, from, std::min(kDigestPiece, bytes - from), p);
    }
    first += pieces;
  }
}

// The bytes of a piece, as they are in memory, or gathered into `buffer` [kDigestPiece].
const unsigned char* piece_of(const StridedArray& source, int64_t from, int64_t bytes, unsigned char* buffer) {
  if (is_dense(source)) return static_cast<const unsigned char*>(source.array.data) + from;
  gather(source, from / item_bytes(source), bytes / item_bytes(source), buffer);
  return buffer;
}

}  // namespace

SourceForm form_of(const StridedArray& source) {
  SourceForm form{source.array.dtype, -1, {}, {}};
  if (source.array.data == nullptr) return form;
  form.dims = source.dims;
  const StridedArray as_read = is_dense(source) ? source : in_order(source);
  for (int d = 0; d < source.dims; ++d) {
    form.sizes[d] = source.sizes[d];
    form.strides[d] = source.sizes[d] == 1 ? 0 : as_read.strides[d];
  }
  return form;
}

int64_t digest_pieces(const Sources& sources) {
  int64_t pieces = 0;
  for (const StridedArray& source : sources) pieces += pieces_of(source);
  return pieces;
}

bool digests_agree(CpuIsa isa, const Sources& sources, const Digest* digests, const Parallel& parallel) {
  const DigestCpu& cpu = digest_cpu(isa);
  std::atomic<bool> agree{true};
  parallel(0, digest_pieces(sources), kPiecesAtOnce, [&](int64_t begin, int64_t end) {
    unsigned char buffer[kDigestPiece];
    each_piece(sources, begin, end, [&](const StridedArray& source, size_t, int64_t from, int64_t bytes, int64_t p) {
      if (!agree.load(std::memory_order_relaxed)) return;
      if (!(cpu.of(piece_of(source, from, bytes, buffer), bytes) == digests[p]))
        agree.store(false, std::memory_order_relaxed);
    });
  });
  return agree.load();
}

Snapshot::Snapshot(CpuIsa isa, const Sources& sources, Digest* digests, const Parallel& parallel) {
  std::vector<unsigned char*> copies;
  for (const StridedArray& source : sources) {
    copies.push_back(memory(bytes_of(source)));
    sources_.push_back(is_dense(source) ? source : in_order(source));
    if (source.array.data != nullptr) sources_.back().array.data = copies.back();
  }
  const DigestCpu& cpu = digest_cpu(isa);
  parallel(0, digest_pieces(sources), kPiecesAtOnce, [&](int64_t begin, int64_t end) {
    unsigned char buffer[kDigestPiece];
    each_piece(sources, begin, end, [&](const StridedArray& source, size_t s, int64_t from, int64_t bytes, int64_t p) {
      std::memcpy(copies[s] + from, piece_of(source, from, bytes, buffer), static_cast<size_t>(bytes));
      digests[p] = cpu.of(copies[s] + from, bytes);
    });
  });
  for (StridedArray& source : sources_) {
    if (source.array.data == nullptr || is_in_order(source)) continue;
    unsigned char* ordered = memory(bytes_of(source));
    gather(source, 0, count_of(source), ordered);
    source = in_order(source);
    source.array.data = ordered;
  }
}

unsigned char* Snapshot::memory(int64_t bytes) {
  memory_.emplace_back(new unsigned char[static_cast<size_t>(bytes)]);
  return memory_.back().get();
}

}  // namespace cnv2
