// A linear layer whose weights are +1, −1 or pruned, a bit for each and one for its place; and its product with samples
// of +1 and −1.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "binary/kernels.h"

namespace secateur::binary {

class Layer {
 public:
  // signs and there: a byte for each weight, row after row: whether it is +1, and whether it is there. Throws
  // std::invalid_argument for a layer without rows or columns, or with 2^31 of either.
  Layer(int64_t rows, int64_t columns, const uint8_t* signs, const uint8_t* there);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t lines() const { return (columns_ + 64 * kLine - 1) / (64 * kLine); }
  int64_t bytes() const { return int64_t(8 * (signs_.size() + masks_.size()) + 4 * kept_.size()); }
  const uint64_t* signs(int64_t row) const { return signs_.data() + row * lines() * kLine; }
  const uint64_t* mask(int64_t row) const { return masks_.empty() ? nullptr : masks_.data() + row * lines() * kLine; }
  int32_t kept(int64_t row) const { return kept_[size_t(row)]; }

 private:
  int64_t rows_, columns_;
  std::vector<uint64_t> signs_, masks_;  // [rows][lines · 8]; no masks where nothing is pruned
  std::vector<int32_t> kept_;            // weights of a row
};

// y[s][r] = scale[r] · Σ w[r] x[s] + bias[r]; bias may be null. False where a number of x is neither +1 nor −1: y then
// holds nothing that means anything.
bool forward(const Layer&, const float* x, int64_t stride, int64_t samples, const float* scales, const float* bias,
             float* y, int threads);

// "portable", "avx2", "avx512" (as base/isa.h has it), or "vpopcntdq".
std::vector<std::string> supported_sets();
std::string current_set();
void use_set(const std::string& name);  // for tests; "" for the best one

}  // namespace secateur::binary
