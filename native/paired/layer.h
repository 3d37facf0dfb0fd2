// A linear layer whose weights survive in blocks of 64 outputs × 2 inputs: which pairs of inputs each group of 64 outputs
// reads. Its weights are multiplied as a full matrix of those pairs, in left blocks (half/kernels.h).

#pragma once

#include <cstdint>
#include <vector>

#include "half/kernels.h"

namespace secateur::half {

class PairedLayer {
 public:
  static constexpr int kTall = 64;              // outputs of a block; the last ones may be fewer
  static constexpr int kHalves = kTall / kSide;
  static constexpr int kPairs = kSide / 2;      // pairs that fill a left block

  // Null where the positions are not those of whole blocks, sorted as a plan of blocks of four rows sorts them: by
  // block of columns, by four rows, by column, by row; up to three rows at the end follow, row by row.
  // Throws std::invalid_argument for sizes and edges that no layer has.
  static PairedLayer* of(int64_t rows, int64_t columns, const int64_t* positions, int64_t count, const int64_t* edges,
                         int64_t edge_count);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t count() const { return count_; }
  int64_t packed() const { return first_block_.back() * kBlock; }  // numbers of the rounded weights
  int64_t bytes() const;                                           // of places, without values

  int64_t groups() const { return (rows_ + kTall - 1) / kTall; }
  int64_t row_blocks() const { return (rows_ + kSide - 1) / kSide; }
  int64_t column_blocks() const { return (columns_ + kSide - 1) / kSide; }
  int row_width(int64_t b) const { return int(rows_ - b * kSide < kSide ? rows_ - b * kSide : kSide); }
  int column_width(int64_t b) const { return int(columns_ - b * kSide < kSide ? columns_ - b * kSide : kSide); }
  int halves(int64_t group) const { return int(rows_ - group * kTall > kSide ? 2 : 1); }

  const int32_t* pairs(int64_t group) const { return pairs_.data() + first_pair_[size_t(group)]; }
  int64_t pair_count(int64_t group) const { return first_pair_[size_t(group) + 1] - first_pair_[size_t(group)]; }
  int64_t depth(int64_t group) const { return (pair_count(group) + kPairs - 1) / kPairs; }  // left blocks behind each other
  int64_t deepest() const { return int64_t(in_order_.size()); }
  const int32_t* in_order() const { return in_order_.data(); }  // 0, 1, … for the deepest group
  // Where a group's left blocks begin in the rounded weights: [halves][depth].
  int64_t block(int64_t group, int half) const { return first_block_[size_t(group)] + half * depth(group); }
  // The values of four rows from `row` on, as [columns of the group][4]; rows beyond the layer's are zeros.
  void read_four(int64_t row, const float* values, float* four) const;
  // The other way round, for the columns from `first` on: sums [count][stride], four rows of which are these.
  void write_four(int64_t row, int64_t first, int64_t count, const float* sums, int64_t stride, float* values) const;

 private:
  PairedLayer(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}
  bool find_pairs(const int64_t* positions, int64_t count);
  bool place(const int64_t* positions, int64_t count, const int64_t* edges, int64_t edge_count);
  // Calls each(column of the group, how many, where their values begin, from column to column) for runs of one row.
  template <class Each>
  void runs(int64_t row, Each&& each) const;
  int64_t alive(int64_t group) const;  // columns

  int64_t rows_, columns_, count_ = 0, parts_ = 0;  // parts: blocks of columns of the plan
  std::vector<int32_t> pairs_;
  std::vector<int64_t> first_pair_;   // [groups + 1]
  std::vector<int64_t> first_block_;  // [groups + 1]
  std::vector<int32_t> in_order_;
  std::vector<int32_t> run_begin_;    // [groups][parts + 1]: a part's first column among the group's
  std::vector<int64_t> four_begin_;   // [rows / 4][parts]: where the values of four rows begin
  std::vector<int64_t> row_begin_;    // of the last rows, row by row
};

}  // namespace secateur::half
