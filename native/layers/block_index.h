// Where the weights of a layer of 4 × 1 blocks are.

#pragma once

#include <cstdint>
#include <vector>

namespace secateur {

// Blocks are numbered in storage order: by block of columns, then by group of four rows, then by column. The entries
// of up to three rows at the end, the rest, come behind them, by row and column.
struct BlockIndex {
  // `positions` as in SparseLayer; throws std::invalid_argument for anything that is not in this order.
  BlockIndex(int64_t rows, int64_t columns, const int64_t* positions, int64_t count, const int64_t* edges,
             int64_t edge_count);

  int64_t entries() const { return int64_t(column.size()) * 4; }  // in blocks

  int32_t groups;
  std::vector<int32_t> starts, group, column;              // starts[b · groups + g]: first block
  std::vector<int64_t> block_starts;                       // first block of each block of columns, and the end
  std::vector<int32_t> rest_row, rest_column, rest_starts;  // of the rest; rest_starts[row − 4 · groups]
  std::vector<int32_t> rest_column_starts, rest_column_rows, rest_order;  // rest_order: which entry of the layer

 private:
  void transpose_rest(int64_t columns);
};

}  // namespace secateur
