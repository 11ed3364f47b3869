#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <thread>

#include "cpu/common/denormals.h"
#include "cpus.h"
#include "spin.h"

namespace cnv2 {
namespace {

using std::chrono::microseconds;

// A caller waits for a piece that runs; a worker for the next loop, past what Python does between two operators.
constexpr microseconds kCallerSpins{30}, kWorkerSpins{500};
constexpr std::chrono::seconds kBeforeStartingAgain{1};

thread_local bool inside = false;  // this thread runs a piece

std::atomic<Pool*> current{nullptr};

std::atomic<bool> forked{false};

// The child has none of the workers and perhaps a locked mutex. It leaves the old pool as it is. It has none of a
// team's threads either, and OpenMP would wait for them for ever.
void after_fork_in_child() {
  current.store(nullptr, std::memory_order_relaxed);
  forked.store(true, std::memory_order_relaxed);
}
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);

// New threads inherit the mask: signals are for threads of the program. Not those that a thread raises itself by a
// fault: blocked, they would end the process before any handler has told what happened.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t most;
    sigfillset(&most);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&most, fault);
    pthread_sigmask(SIG_SETMASK, &most, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

void name_this_thread() {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "cnv2-worker");
#elif defined(__APPLE__)
  pthread_setname_np("cnv2-worker");
#endif
}

}  // namespace

void Parallel::run(int64_t begin, int64_t end, int64_t grain, Body body, void* context) const {
  const int64_t shares = Job::shares_for(begin, end, grain, threads);
  if (shares <= 1 || inside) return body(context, begin, end);
  Job job(begin, end, grain, shares, body, context);
  if (team == nullptr || forked.load(std::memory_order_relaxed)) return Pool::of_process().run(job, threads);
  team(
      job.shares(),
      [](void* work, int64_t share) {
        const FlushDenormals flush;  // not the team's habit
        inside = true;
        static_cast<Job*>(work)->work(share);
        inside = false;
      },
      &job);
  job.rethrow();
}

// Never destroyed: workers may still look at it while the process ends.
Pool& Pool::of_process() {
  Pool* pool = current.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
  auto* made = new Pool;
  if (current.compare_exchange_strong(pool, made, std::memory_order_acq_rel)) return *made;
  delete made;
  return *pool;
}

void Pool::run(Job& job, int64_t threads) {
  open(job, threads);
  inside = true;
  job.work(0);
  inside = false;
  close(job);
  job.rethrow();
}

void Pool::open(Job& job, int64_t threads) {
  int64_t wake = 0, start = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = std::max<int64_t>(threads, usable_cpus());
    job.next = jobs_;
    if (jobs_ != nullptr) jobs_->previous = &job;
    jobs_ = &job;
    ++open_;
    const int64_t wanted = std::min(job.shares() - 1, limit_ - open_ - busy_);
    wake = std::min(wanted - (workers_ - busy_ - asleep_), asleep_);  // the others are about to look by themselves
    start = std::max<int64_t>(wanted - (workers_ - busy_), 0);
    workers_ += start;
    changes_.fetch_add(1, std::memory_order_release);
  }
  // Who is woken wakes two others, so that the caller does not wake all.
  for (int64_t i = 0; i < std::min<int64_t>(wake, 2); ++i) work_.notify_one();
  if (start > 0) start_workers(start);
}

void Pool::close(Job& job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    (job.previous != nullptr ? job.previous->next : jobs_) = job.next;
    if (job.next != nullptr) job.next->previous = job.previous;
    --open_;
  }
  if (spin_until(kCallerSpins, [&] { return job.helpers.load(std::memory_order_acquire) == 0; })) return;
  job.helpers.fetch_or(Job::kCallerSleeps);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [&] { return job.helpers.load(std::memory_order_acquire) == Job::kCallerSleeps; });
}

// The workers are counted already.
void Pool::start_workers(int64_t number) {
  int64_t first;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    first = workers_ - number;
    if (std::chrono::steady_clock::now() < start_again_) {
      workers_ -= number;
      return;
    }
  }
  const BlockSignals blocked;
  for (int64_t i = 0; i < number; ++i) {
    try {
      std::thread([this, i, first] { work(first + i); }).detach();
    } catch (const std::exception&) {  // no more threads for this process: the caller goes on without
      const std::lock_guard<std::mutex> lock(mutex_);
      workers_ -= number - i;
      start_again_ = std::chrono::steady_clock::now() + kBeforeStartingAgain;
      return;
    }
  }
}

void Pool::work(int64_t worker) {
  name_this_thread();
  use_cpus_of_process();
  const FlushDenormals flush;
  inside = true;
  for (uint64_t masks = masks_seen();;) {
    Job* job = wait_for_job();
    if (masks_seen() != masks) {
      masks = masks_seen();
      use_cpus_of_process();
    }
    job->work(1 + worker % (job->shares() - 1));  // the caller begins with share 0
    leave(*job);
  }
}

// A job that this worker has joined.
Job* Pool::wait_for_job() {
  for (;;) {
    const uint64_t seen = changes_.load(std::memory_order_acquire);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (Job* job = join_locked()) return job;
    }
    const auto changed = [&] { return changes_.load(std::memory_order_relaxed) != seen; };
    if (spin_until(kWorkerSpins, changed)) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    Job* job = join_locked();
    if (job != nullptr) return job;
    ++asleep_;
    while ((job = join_locked()) == nullptr) work_.wait(lock);
    --asleep_;
    const int64_t wake = std::min<int64_t>({job->shares() - 1 - busy_, asleep_, 2});
    lock.unlock();
    for (int64_t i = 0; i < wake; ++i) work_.notify_one();
    return job;
  }
}

// Null if there is nothing to do, or if as many callers are at work as there are CPUs.
Job* Pool::join_locked() {
  if (open_ + busy_ >= limit_) return nullptr;
  for (Job* job = jobs_; job != nullptr; job = job->next) {
    if (job->helpers.load(std::memory_order_relaxed) + 1 >= static_cast<uint64_t>(job->shares()) || !job->has_pieces())
      continue;
    job->helpers.fetch_add(1, std::memory_order_relaxed);
    ++busy_;
    return job;
  }
  return nullptr;
}

// After the subtraction the caller may return and the job be gone.
void Pool::leave(Job& job) {
  bool last;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    --busy_;
    last = job.helpers.fetch_sub(1, std::memory_order_acq_rel) == (Job::kCallerSleeps | 1);
  }
  if (last) done_.notify_all();
}

}  // namespace cnv2
