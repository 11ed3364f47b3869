// The threads that help a caller of Parallel: one pool for the process, shared by all callers.
//
// A caller puts its job on a list, works through it as if it were alone, and then waits only for the pieces that
// workers are running at that moment. Workers that find work on the list help; none is ever waited for before it has
// begun, so a worker without a core costs nothing. Workers start when first wanted and never end. No framework header.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "job.h"

namespace cnv2 {

class Pool {
 public:
  // The pool of this process. A forked child gets one of its own, since threads do not survive a fork.
  static Pool& of_process();

  // Runs the job, on at most `threads` threads, the caller's among them.
  void run(Job& job, int64_t threads);

 private:
  void open(Job& job, int64_t threads);
  void close(Job& job);
  void start_workers(int64_t number);
  void work(int64_t worker);
  Job* wait_for_job();
  Job* join_locked();
  void leave(Job& job);

  alignas(64) std::atomic<uint64_t> changes_{0};  // of the list; what waiting workers look at
  alignas(64) std::mutex mutex_;                  // guards what follows
  std::condition_variable work_, done_;
  Job* jobs_ = nullptr;
  int64_t open_ = 0;                // jobs on the list: callers at work
  int64_t workers_ = 0, busy_ = 0;  // workers started; those that help a job
  int64_t asleep_ = 0;
  int64_t limit_ = 0;                                    // callers and workers at work at a time
  std::chrono::steady_clock::time_point start_again_{};  // after the system refused a thread
};

}  // namespace cnv2
