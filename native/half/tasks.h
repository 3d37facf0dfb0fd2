// How a product is cut into tasks that fit the second-level cache, and how threads share them.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/team.h"
#include "half/kernels.h"

namespace secateur::half {

inline int64_t blocks_of(int64_t size) { return (size + kSide - 1) / kSide; }
inline int within(int64_t size, int64_t block) { return int(std::min<int64_t>(kSide, size - block * kSide)); }

// Rows × columns of result blocks, cut into tasks that are no larger than `most` and go evenly into the threads.
class Tasks {
 public:
  struct Size {
    int64_t rows, columns;
  };

  Tasks(int64_t rows, int64_t columns, Size most, int threads) : rows_(rows), columns_(columns) {
    row_parts_ = (rows + most.rows - 1) / most.rows;
    column_parts_ = (columns + most.columns - 1) / most.columns;
    while (row_parts_ * column_parts_ % threads && column_parts_ < columns) ++column_parts_;
    while (row_parts_ * column_parts_ < threads && row_parts_ < rows) ++row_parts_;
  }
  int64_t count() const { return row_parts_ * column_parts_; }
  Range rows(int64_t task) const { return part(rows_, row_parts_, task / column_parts_); }
  Range columns(int64_t task) const { return part(columns_, column_parts_, task % column_parts_); }

 private:
  static Range part(int64_t total, int64_t parts, int64_t index) {
    return {total * index / parts, total * (index + 1) / parts};
  }
  int64_t rows_, columns_, row_parts_, column_parts_;
};

// Numbers given out one by one: whoever is free takes the next.
class Queue {
 public:
  explicit Queue(int64_t count) : count_(count) {}
  int64_t next() {  // count and above: none left
    return next_.fetch_add(1, std::memory_order_relaxed);
  }
  template <class Do>
  void work(Do&& each) {
    for (int64_t n = next(); n < count_; n = next()) each(n);
  }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t count_;
};

// Products of blocks below which a second thread costs more than it brings, measured: about 20 µs with AMX.
constexpr int64_t kWorthAThread = 1000;

inline int threads_worth(int threads, int64_t products) {
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, products / kWorthAThread)));
}

}  // namespace secateur::half
