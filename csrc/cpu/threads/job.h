// One parallel loop on its way: its range, cut into shares and these into pieces, which threads claim one by one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "cpu/common/parallel.h"

namespace cnv2 {

class Job {
 public:
  static constexpr int64_t kMostShares = 256;
  // More would leave less to a thread that is late, but each piece reads all of a product's other operand.
  static constexpr int64_t kPiecesOfShare = 2;

  // A share is contiguous, and thread t begins with share t in every loop: while nobody disturbs them, the same thread
  // meets the same rows in loop after loop, in its own cache.
  Job(int64_t begin, int64_t end, int64_t grain, int64_t shares, Parallel::Body body, void* context)
      : body_(body), context_(context) {
    const int64_t size = (end - begin + shares - 1) / shares;
    piece_ = std::max((size + kPiecesOfShare - 1) / kPiecesOfShare, grain);
    shares_ = (end - begin + size - 1) / size;
    for (int64_t s = 0; s < shares_; ++s) {
      share_[s].next.store(begin + s * size, std::memory_order_relaxed);
      share_[s].end = std::min(end, begin + (s + 1) * size);
    }
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // How many threads a loop of this size is worth.
  static int64_t shares_for(int64_t begin, int64_t end, int64_t grain, int64_t threads) {
    const int64_t worth = (end - begin + grain - 1) / grain;
    return std::min({threads, worth, kMostShares});
  }

  int64_t shares() const { return shares_; }

  // Runs pieces until none is left: of share `first`, then of those that follow.
  void work(int64_t first) {
    for (int64_t s = 0; s < shares_; ++s) work_on(share_[(first + s) % shares_]);
  }

  bool has_pieces() const {
    for (int64_t s = 0; s < shares_; ++s) {
      if (share_[s].next.load(std::memory_order_relaxed) < share_[s].end) return true;
    }
    return false;
  }

  // Throws what a body has thrown, the first of several.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

  // ---- for the pool -----------------------------------------------------------------------------------------------

  static constexpr uint32_t kCallerSleeps = 1u << 31;
  std::atomic<uint32_t> helpers{0};  // workers that are at it, and whether the caller sleeps until they have left
  Job *previous = nullptr, *next = nullptr;

 private:
  struct alignas(64) Share {  // a cache line of its own
    std::atomic<int64_t> next;
    int64_t end;
  };

  void work_on(Share& share) {
    while (share.next.load(std::memory_order_relaxed) < share.end && !failed_.load(std::memory_order_relaxed)) {
      const int64_t from = share.next.fetch_add(piece_, std::memory_order_relaxed);
      if (from >= share.end) return;
      try {
        body_(context_, from, std::min(from + piece_, share.end));
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
    }
  }

  const Parallel::Body body_;
  void* const context_;
  int64_t piece_, shares_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // of the thread that set failed_; read when all have left
  Share share_[kMostShares];
};

}  // namespace cnv2
