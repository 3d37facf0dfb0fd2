#include "int8/layer.h"

#include <stdexcept>

namespace secateur::int8 {

Layer::Layer(int64_t rows, int64_t columns, const int64_t* positions, const int8_t* values, int64_t count,
             const float* scales, int64_t scale_count)
    : rows_(rows), columns_(columns) {
  if (rows < 1 || columns < 1 || rows >= INT32_MAX)
    throw std::invalid_argument("a sparse layer needs between 1 and 2^31 rows and columns");
  // 127 · 255 · columns must be an int32, and 128 · 127 · columns.
  if (columns > INT32_MAX / (127 * 255)) throw std::invalid_argument("a layer of int8 takes at most 66,311 inputs");
  if (count >= INT32_MAX) throw std::invalid_argument("a sparse layer must have fewer than 2^31 weights");
  if (scale_count != rows) throw std::invalid_argument("a scale is needed for each row");
  scales_.assign(scales, scales + rows);
  totals_.assign(size_t(rows), 0);
  masks_.assign(size_t(panels() * depth() * kRows), 0);
  const auto word = [&](int64_t p) {
    const int64_t row = p / columns_, column = p % columns_;
    return size_t((row / kRows * depth() + column / kInputs) * kRows + row % kRows);
  };
  const auto bit = [&](int64_t p) { return uint64_t(1) << (p % columns_ % kInputs); };
  for (int64_t k = 0; k < count; ++k) {
    const int64_t p = positions[k];
    if (p < 0 || p >= rows * columns) throw std::invalid_argument("a position lies outside of the layer");
    if (masks_[word(p)] & bit(p)) throw std::invalid_argument("a position comes twice");
    masks_[word(p)] |= bit(p);
    totals_[size_t(p / columns)] += values[k];
  }
  std::vector<int32_t> begin(masks_.size());  // of each row of a block
  int32_t next = 0;
  for (size_t w = 0; w < masks_.size(); ++w) {
    if (w % kRows == 0) first_.push_back(next);
    begin[w] = next;
    next += __builtin_popcountll(masks_[w]);
  }
  first_.push_back(next);
  values_.assign(size_t(count + kPadding), 0);
  for (int64_t k = 0; k < count; ++k) {
    const size_t w = word(positions[k]);
    values_[size_t(begin[w] + __builtin_popcountll(masks_[w] & (bit(positions[k]) - 1)))] = values[k];
  }
}

int64_t Layer::bytes() const {
  return int64_t(8 * masks_.size() + 4 * (first_.size() + scales_.size() + totals_.size()) + values_.size());
}

}  // namespace secateur::int8
