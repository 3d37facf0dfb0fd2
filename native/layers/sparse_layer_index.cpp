// How a SparseLayer finds out where its weights are: from places, or from a mask. Hundreds of millions of weights are
// usual, so nothing is kept twice, and what only gradients ask for is written out when they do.

#include <stdexcept>
#include <string>

#include "layers/sparse_layer.h"

namespace secateur {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

// Cuts columns into blocks that have about equally many used ones, at most `block_columns`.
std::vector<int64_t> cut(const std::vector<uint8_t>& used, int64_t block_columns) {
  const int64_t columns = int64_t(used.size());
  const int64_t total = std::count(used.begin(), used.end(), uint8_t{1});
  const int64_t blocks = std::max<int64_t>(1, (total + block_columns - 1) / block_columns);
  std::vector<int64_t> edges{0};
  int64_t seen = 0;
  for (int64_t c = 0; c < columns; ++c) {
    seen += used[size_t(c)];
    const int64_t b = int64_t(edges.size());
    if (b < blocks && seen >= total * b / blocks) edges.push_back(c + 1);
  }
  if (edges.back() < columns) edges.push_back(columns);
  return edges;
}

}  // namespace

void SparseLayer::set_sizes(int64_t rows, int64_t columns, int64_t count) {
  require(rows > 0 && columns > 0 && rows < INT32_MAX && columns < INT32_MAX,
          "a layer's rows and columns must be in [1, 2^31), got " + std::to_string(rows) + " x " +
              std::to_string(columns));
  require(count >= 0 && count < INT32_MAX,
          "a layer must keep fewer than 2^31 weights, got " + std::to_string(count));
  rows_ = int32_t(rows);
  columns_ = int32_t(columns);
  blocks_ = int32_t(edges_.size()) - 1;
  count_ = count;
}

SparseLayer::SparseLayer(int64_t rows, int64_t columns, const int64_t* positions, int64_t count,
                         const int64_t* edges, int64_t edge_count, bool blocks)
    : edges_(edges, edges + edge_count) {
  set_sizes(rows, columns, count);
  require(edge_count >= 2 && edges[0] == 0 && edges[edge_count - 1] == columns,
          "the column blocks must begin at 0 and end at the number of columns");
  for (int64_t b = 1; b < edge_count; ++b)
    require(edges[b] > edges[b - 1], "the column blocks must be in ascending order");
  if (blocks) {
    index_ = std::make_unique<BlockIndex>(rows, columns, positions, count, edges, edge_count);
  } else {
    index_entries(positions);
  }
  count_work();
  build_pack();
}

SparseLayer::SparseLayer(const Taken& taken, const bool* counted, int64_t block_columns, int threads) {
  const std::vector<int32_t> columns = Taken::listed(taken.taken_columns, taken.columns);
  const std::vector<uint8_t> used = used_columns(taken.mask, taken.rows, taken.columns, counted);
  std::vector<uint8_t> used_of_taken;
  for (int32_t c : columns) used_of_taken.push_back(used[size_t(c)]);
  edges_ = cut(used_of_taken, block_columns);
  set_sizes(std::count(taken.taken_rows, taken.taken_rows + taken.rows, true), int64_t(columns.size()), 0);
  index_mask(taken, columns, threads);
  count_work();
  build_pack();
}

void SparseLayer::index_entries(const int64_t* positions) {
  starts_.assign(size_t(blocks_) * rows_ + 1, 0);
  column_ = Numbers(count_);
  int64_t block = 0, last = -1;
  for (int64_t k = 0; k < count_; ++k) {
    const int64_t position = positions[k];
    if (position < 0 || position >= int64_t(rows_) * columns_)
      throw std::invalid_argument("weight position " + std::to_string(position) + " lies outside the layer");
    const int64_t r = position / columns_, c = position % columns_;
    while (block < blocks_ && c >= edges_[size_t(block) + 1]) ++block, last = -1;
    if (block == blocks_ || c < edges_[size_t(block)] || position <= last)
      throw std::invalid_argument("weight positions must be sorted by block of columns, row and column, each once");
    last = position;
    column_[k] = int32_t(c);
    ++starts_[size_t(block) * rows_ + r + 1];
  }
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  for (int32_t b = 0; b <= blocks_; ++b) block_starts_.push_back(starts_[size_t(b) * rows_]);
}

// Counts the entries of each row in each block first, and writes them to their places then.
void SparseLayer::index_mask(const Taken& taken, const std::vector<int32_t>& columns, int threads) {
  const std::vector<int32_t> rows = Taken::listed(taken.taken_rows, taken.rows);
  const bool all = int64_t(columns.size()) == taken.columns;
  std::vector<int32_t> number(size_t(taken.columns), -1);  // of each column among those taken
  for (size_t i = 0; i < columns.size(); ++i) number[size_t(columns[i])] = int32_t(i);
  std::vector<int64_t> counts(size_t(blocks_) * rows_ + 1, 0);
  const auto each_part = [&](int64_t r0, int64_t r1, auto body) {
    for (int64_t r = r0; r < r1; ++r) {
      for (int64_t b = 0; b < blocks_; ++b)
        body(taken.mask + rows[size_t(r)] * taken.columns, columns[size_t(edges_[size_t(b)])],
             columns[size_t(edges_[size_t(b) + 1]) - 1] + 1, size_t(b) * rows_ + size_t(r));
    }
  };
  run_team(threads, [&](int thread, int team) {
    const Range mine = share(rows_, thread, team);
    each_part(mine.begin, mine.end, [&](const bool* row, int64_t first, int64_t last, size_t at) {
      int64_t found = 0;
      if (all) found = count_flags(row + first, last - first);
      else each_kept(row, first, last, [&](int64_t c) { found += number[size_t(c)] >= 0; });
      counts[at + 1] = found;
    });
  });
  for (size_t i = 1; i < counts.size(); ++i) counts[i] += counts[i - 1];
  set_sizes(rows_, columns_, counts.back());
  starts_.assign(counts.begin(), counts.end());
  for (int32_t b = 0; b <= blocks_; ++b) block_starts_.push_back(starts_[size_t(b) * rows_]);
  column_ = Numbers(count_);
  run_team(threads, [&](int thread, int team) {
    const Range mine = share(rows_, thread, team);
    each_part(mine.begin, mine.end, [&](const bool* row, int64_t first, int64_t last, size_t at) {
      int32_t* to = column_.data() + starts_[at];
      if (all) return each_kept(row, first, last, [&](int64_t c) { *to++ = int32_t(c); });
      each_kept(row, first, last, [&](int64_t c) {
        if (number[size_t(c)] >= 0) *to++ = number[size_t(c)];  // else nothing comes from there
      });
    });
  });
}

void SparseLayer::count_work() {
  row_work_.assign(size_t(rows_) + 1, 0);
  column_starts_.assign(size_t(columns_) + 1, 0);
  if (index_) {
    each_entry(0, 1, [&](int64_t, int64_t row, int64_t column) {
      ++row_work_[size_t(row) + 1];
      ++column_starts_[size_t(column) + 1];
    });
  } else {
    for (int64_t k = 0; k < count_; ++k) ++column_starts_[size_t(column_[k]) + 1];
    for (int32_t b = 0; b < blocks_; ++b) {
      for (int32_t r = 0; r < rows_; ++r) {
        const Range entries = entries_of(b, r, r + 1);
        row_work_[size_t(r) + 1] += entries.end - entries.begin;
      }
    }
  }
  for (int32_t r = 0; r < rows_; ++r) {
    alive_rows_ += row_work_[size_t(r) + 1] > 0;
    row_work_[size_t(r) + 1] += row_work_[size_t(r)] + 2;  // storing the row costs about two entries
  }
  column_work_.assign(size_t(columns_) + 1, 0);
  for (int32_t c = 0; c < columns_; ++c) {
    alive_columns_ += column_starts_[c + 1] > 0;
    column_work_[c + 1] = column_work_[c] + column_starts_[c + 1] + 2;
    column_starts_[c + 1] += column_starts_[c];
  }
}

const int32_t* SparseLayer::rows_of_entries(int threads) const {
  std::call_once(row_made_, [&] {
    row_ = Numbers(index_ ? 0 : count_);
    if (index_) return;
    run_team(threads, [&](int thread, int team) {
      const Range mine = share(rows_, thread, team);
      for (int32_t b = 0; b < blocks_; ++b) {
        for (int64_t r = mine.begin; r < mine.end; ++r) {
          const Range entries = entries_of(b, int32_t(r), int32_t(r) + 1);
          std::fill(row_.data() + entries.begin, row_.data() + entries.end, int32_t(r));
        }
      }
    });
  });
  return row_.data();
}

// A column lies in one block, and there its entries come by row: the transpose is sorted as well. Each thread has
// columns of its own, about equal work, and in each row finds where they begin.
const SparseLayer::Transpose& SparseLayer::transpose(int threads) const {
  std::call_once(transpose_.made, [&] {
    transpose_.rows = Numbers(count_);
    transpose_.order = Numbers(count_);
    run_team(threads, [&](int thread, int team) {
      const Range mine = split(column_work_, thread, team);
      std::vector<int32_t> next(column_starts_.begin(), column_starts_.end() - 1);
      for (int32_t b = 0; b < blocks_; ++b) {
        const int64_t first = std::max(mine.begin, edges_[size_t(b)]);
        const int64_t last = std::min(mine.end, edges_[size_t(b) + 1]);
        if (first >= last) continue;
        const bool whole = first == edges_[size_t(b)];
        for (int32_t r = 0; r < rows_; ++r) {
          const Range entries = entries_of(b, r, r + 1);
          const int32_t *end = column_.data() + entries.end, *from = column_.data() + entries.begin;
          if (!whole) from = std::lower_bound(from, end, int32_t(first));
          for (; from < end && *from < last; ++from) {
            const int32_t at = next[size_t(*from)]++;
            transpose_.rows[at] = r;
            transpose_.order[at] = int32_t(from - column_.data());
          }
        }
      }
    });
  });
  return transpose_;
}

void SparseLayer::prepare_gradients(bool transpose, int threads) const {
  if (index_) return;
  rows_of_entries(threads);
  if (transpose) this->transpose(threads);
}

}  // namespace secateur
