// A linear layer's surviving weights as signed bytes behind a bitmask, with a scale for each output; and its product.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "half/products.h"
#include "int8/kernels.h"

namespace secateur::int8 {

class Layer {
 public:
  // positions: row · columns + column of each surviving weight, in any order, and its value; a scale for each row.
  // Throws std::invalid_argument for others, and for layers whose sums could pass 2^31.
  Layer(int64_t rows, int64_t columns, const int64_t* positions, const int8_t* values, int64_t count,
        const float* scales, int64_t scale_count);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t count() const { return first_.back(); }
  int64_t bytes() const;

  int64_t panels() const { return (rows_ + kRows - 1) / kRows; }
  int64_t depth() const { return (columns_ + kInputs - 1) / kInputs; }
  int row_width(int64_t panel) const { return int(rows_ - panel * kRows < kRows ? rows_ - panel * kRows : kRows); }
  bool empty(int64_t block) const { return first_[size_t(block)] == first_[size_t(block) + 1]; }
  const uint64_t* masks(int64_t block) const { return masks_.data() + block * kRows; }
  const int32_t* first(int64_t block) const { return first_.data() + block; }
  const int8_t* values() const { return values_.data(); }
  const int32_t* totals(int64_t panel) const { return totals_.data() + panel * kRows; }
  const float* scales(int64_t panel) const { return scales_.data() + panel * kRows; }

 private:
  int64_t rows_, columns_;
  std::vector<uint64_t> masks_;  // [panels][depth][32]
  std::vector<int32_t> first_;   // [panels · depth + 1]
  std::vector<int8_t> values_;
  std::vector<float> scales_;    // [rows]
  std::vector<int32_t> totals_;  // of the values of a row
};

// y [samples, rows] = x Wᵀ + bias, where x is rounded to eight bits sample by sample; bias may be null.
void forward(const Layer&, const half::Matrix& x, const float* bias, const half::Matrix& y, int threads);

// Names of the sets of this machine, the plainest first: "vnni", "amx"; none: the products cannot run.
std::vector<std::string> supported_sets();
std::string current_set();  // "" for none
void use_set(const std::string& name);  // for tests; "" for the best one

}  // namespace secateur::int8
