// A linear layer's surviving weights as a bitmask: what one product with blocks of bfloat16 needs to know.
//
// The matrix is cut into blocks of 32 outputs × 32 inputs; where the plan's storage order has an edge between columns, a
// block ends there, so that a block's row is one run of values in that order. Packed values lie block by block (panel of
// outputs, then inputs), row by row.

#pragma once

#include <cstdint>
#include <vector>

#include "half/kernels.h"

namespace secateur::half {

class HalfLayer {
 public:
  // positions: row · columns + column of each surviving weight, in the plan's order: by block of columns between edges,
  // then by row, then by column. Throws std::invalid_argument for others.
  HalfLayer(int64_t rows, int64_t columns, const int64_t* positions, int64_t count, const int64_t* edges,
            int64_t edge_count);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t count() const { return first_.back(); }
  int64_t bytes() const;  // of masks and places, without values

  int64_t row_blocks() const { return (rows_ + kSide - 1) / kSide; }
  int64_t column_blocks() const { return int64_t(column_begin_.size()) - 1; }
  int64_t blocks() const { return row_blocks() * column_blocks(); }
  int64_t block(int64_t row_block, int64_t column_block) const { return row_block * column_blocks() + column_block; }
  int64_t column_begin(int64_t column_block) const { return column_begin_[size_t(column_block)]; }
  int column_width(int64_t b) const { return int(column_begin_[size_t(b) + 1] - column_begin_[size_t(b)]); }
  int row_width(int64_t b) const { return int(rows_ - b * kSide < kSide ? rows_ - b * kSide : kSide); }

  bool empty(int64_t block) const { return first_[size_t(block)] == first_[size_t(block) + 1]; }
  const uint32_t* masks(int64_t block) const { return masks_.data() + block * kSide; }
  const int32_t* starts(int64_t block) const { return starts_.data() + block * kSide; }
  const int32_t* first(int64_t block) const { return first_.data() + block; }

 private:
  void place(const int64_t* positions, int64_t count, const std::vector<int32_t>& block_of_column);

  int64_t rows_, columns_;
  std::vector<int64_t> column_begin_;
  std::vector<uint32_t> masks_;  // [blocks][32]: bit c of word r is the weight from input c to output r
  std::vector<int32_t> starts_;  // [blocks][32]: where row r's values begin in the plan's order
  std::vector<int32_t> first_;   // [blocks + 1]: where a block's packed values begin
};

}  // namespace secateur::half
