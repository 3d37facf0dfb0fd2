#include "half/layer.h"

#include <stdexcept>

namespace secateur::half {

HalfLayer::HalfLayer(int64_t rows, int64_t columns, const int64_t* positions, int64_t count, const int64_t* edges,
                     int64_t edge_count)
    : rows_(rows), columns_(columns) {
  if (rows < 1 || columns < 1 || rows >= INT32_MAX || columns >= INT32_MAX)
    throw std::invalid_argument("a sparse layer needs between 1 and 2^31 rows and columns");
  if (count >= INT32_MAX) throw std::invalid_argument("a sparse layer must have fewer than 2^31 weights");
  if (edge_count < 2 || edges[0] != 0 || edges[edge_count - 1] != columns)
    throw std::invalid_argument("edges must go from 0 to the number of columns");
  std::vector<int32_t> block_of_column(size_t(columns), 0);
  for (int64_t i = 0; i + 1 < edge_count; ++i) {
    if (edges[i + 1] <= edges[i]) throw std::invalid_argument("edges must ascend");
    for (int64_t begin = edges[i]; begin < edges[i + 1]; begin += kSide) {
      const int64_t end = begin + kSide < edges[i + 1] ? begin + kSide : edges[i + 1];
      for (int64_t c = begin; c < end; ++c) block_of_column[size_t(c)] = int32_t(column_begin_.size());
      column_begin_.push_back(begin);
    }
  }
  column_begin_.push_back(columns);
  masks_.assign(size_t(blocks() * kSide), 0);
  starts_.assign(size_t(blocks() * kSide), 0);
  first_.assign(size_t(blocks()) + 1, 0);
  place(positions, count, block_of_column);
  for (int64_t b = 0; b < blocks(); ++b) {
    int32_t kept = 0;
    for (int r = 0; r < kSide; ++r) kept += __builtin_popcount(masks(b)[r]);
    first_[size_t(b) + 1] = first_[size_t(b)] + kept;
  }
}

void HalfLayer::place(const int64_t* positions, int64_t count, const std::vector<int32_t>& block_of_column) {
  int64_t row = 0, begin = 0;  // of the row: its first position
  for (int64_t k = 0; k < count; ++k) {
    const int64_t p = positions[k];
    if (p < 0 || p >= rows_ * columns_) throw std::invalid_argument("a position lies outside of the layer");
    if (p < begin || p >= begin + columns_) row = p / columns_, begin = row * columns_;
    const int64_t column = p - begin;
    const int32_t column_block = block_of_column[size_t(column)];
    const size_t at = size_t(block(row / kSide, column_block) * kSide + row % kSide);
    const uint32_t bit = 1u << (column - column_begin_[size_t(column_block)]);
    if (!masks_[at]) starts_[at] = int32_t(k);
    // One run, ascending: this weight comes right behind those that the row has in this block already.
    if (masks_[at] >= bit || starts_[at] + __builtin_popcount(masks_[at]) != k)
      throw std::invalid_argument("positions must be sorted by block of columns, row and column");
    masks_[at] |= bit;
  }
}

int64_t HalfLayer::bytes() const { return int64_t(4 * (masks_.size() + starts_.size() + first_.size())); }

}  // namespace secateur::half
