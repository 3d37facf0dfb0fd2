#include "layers/block_index.h"

#include <stdexcept>

#include "kernels/sparse_kernels.h"

namespace secateur {
namespace {

void require(bool holds) {
  if (!holds)
    throw std::invalid_argument(
        "weight positions of blocks must be sorted by block of columns, group of four rows and column, with the "
        "rows at the end behind them");
}

// Running totals of how often each value occurs, from 0 on.
std::vector<int32_t> starts_of(const std::vector<int32_t>& values, int64_t size) {
  std::vector<int32_t> starts(size_t(size) + 1, 0);
  for (int32_t v : values) ++starts[size_t(v) + 1];
  for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
  return starts;
}

}  // namespace

BlockIndex::BlockIndex(int64_t rows, int64_t columns, const int64_t* positions, int64_t count, const int64_t* edges,
                       int64_t edge_count)
    : groups(int32_t(rows / kRowsPerBlock)) {
  const int64_t whole = int64_t(groups) * kRowsPerBlock * columns;
  int64_t k = 0, block = 0, last = -1;
  starts.assign(size_t(edge_count - 1) * groups + 1, 0);
  for (; k < count && positions[k] < whole; k += kRowsPerBlock) {
    const int64_t position = positions[k];
    const int64_t r = position < 0 ? -1 : position / columns, c = position < 0 ? -1 : position % columns;
    require(r >= 0 && r % kRowsPerBlock == 0 && k + kRowsPerBlock <= count);
    for (int64_t i = 1; i < kRowsPerBlock; ++i) require(positions[k + i] == position + i * columns);
    while (block < edge_count - 1 && c >= edges[block + 1]) ++block, last = -1;
    require(block < edge_count - 1 && c >= edges[block] && position > last);
    last = position;
    group.push_back(int32_t(r / kRowsPerBlock));
    column.push_back(int32_t(c));
    ++starts[size_t(block) * groups + group.back() + 1];
  }
  for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
  for (int64_t b = 0; b < edge_count; ++b) block_starts.push_back(starts[size_t(b) * groups]);
  for (last = whole - 1; k < count; ++k) {
    require(positions[k] > last && positions[k] < rows * columns);
    last = positions[k];
    rest_row.push_back(int32_t(last / columns));
    rest_column.push_back(int32_t(last % columns));
  }
  std::vector<int32_t> below(rest_row);
  for (int32_t& r : below) r -= groups * kRowsPerBlock;
  rest_starts = starts_of(below, rows - int64_t(groups) * kRowsPerBlock);
  transpose_rest(columns);
}

void BlockIndex::transpose_rest(int64_t columns) {
  rest_column_starts = starts_of(rest_column, columns);
  rest_column_rows.resize(rest_column.size());
  rest_order.resize(rest_column.size());
  std::vector<int32_t> next(rest_column_starts);
  for (size_t k = 0; k < rest_column.size(); ++k) {
    const int32_t at = next[size_t(rest_column[k])]++;
    rest_column_rows[size_t(at)] = rest_row[k];
    rest_order[size_t(at)] = int32_t(entries() + int64_t(k));
  }
}

}  // namespace secateur
