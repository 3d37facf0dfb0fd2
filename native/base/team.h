// A team of OpenMP threads that work through several stages of one call, and the barrier between the stages.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace secateur {

// Spins first, for stages are microseconds apart, then gives the core away: on a busy machine the thread waited
// for may need it.
class Barrier {
 public:
  void wait(int threads) {
    if (threads == 1) return;
    const int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round;) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
      if (++spins > 4096) std::this_thread::yield();
    }
  }

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

// Calls body(thread, threads) on up to `threads` threads at once, and returns when all have returned.
template <class Body>
void run_team(int threads, Body&& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    body(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  body(0, 1);
}

struct Range {
  int64_t begin, end;
};

// Part `index` of `parts` of [0, count), in multiples of `grain`.
inline Range share(int64_t count, int index, int parts, int64_t grain = 1) {
  const int64_t grains = (count + grain - 1) / grain;
  return {std::min(count, grains * index / parts * grain), std::min(count, grains * (index + 1) / parts * grain)};
}

// How a team splits a layer: every thread has some of the batch tiles and some of the rows.
struct Grid {
  int tile_parts, row_parts;

  // All rows are shared out, and no tiles: a batch of 100 has seven tiles, of which one of two threads would get four,
  // and that costs more than the barrier between layers (LeNet-300-100 on two threads: a tenth of a step).
  static Grid of(int threads) { return {1, threads}; }
};

}  // namespace secateur
