// From a dense mask to the places of a layer's weights, and from one mask to the next: what a step that follows a
// changing mask does between two of its steps.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "layers/sparse_layer.h"

namespace secateur {

// Whether the rows and columns taken of a mask keep whole blocks of four rows of one column, but for the last rows;
// and at least one.
bool whole_blocks(const bool* mask, int64_t rows, int64_t columns, const bool* taken_rows, const bool* taken_columns);

// Where each of a layer's entries, in storage order, stands in a dense weight, and behind them those that the mask keeps
// in rows that were not taken, row by row. Nothing is held for an entry: the layer knows its row and column already.
class DensePlaces {
 public:
  // Of a layer that is the whole weight.
  explicit DensePlaces(std::shared_ptr<const SparseLayer> layer);
  // Of a layer of the rows and columns taken.
  DensePlaces(std::shared_ptr<const SparseLayer> layer, const Taken& taken);

  int64_t count() const { return layer_->count() + int64_t(idle_.size()); }
  // Entries of the dense weight.
  int64_t numel() const { return dense_rows_ * dense_columns_; }
  void take(const float* dense, float* values, int threads) const;
  // Leaves other entries as they are.
  void put(const float* values, float* dense, int threads) const;
  std::vector<int64_t> listed(int threads) const;

 private:
  template <class Body>
  void each(int threads, Body body) const;

  std::shared_ptr<const SparseLayer> layer_;
  int64_t dense_rows_, dense_columns_;
  std::vector<int32_t> rows_, columns_;  // in the dense weight, of those of the layer; empty: the same
  std::vector<int64_t> idle_;
};

// For each place of `to`, where in `from` it is, or −1; `size` is larger than any place.
std::vector<int64_t> match(const int64_t* from, int64_t from_count, const int64_t* to, int64_t to_count, int64_t size);
// made[i] = old[sources[i]], or 0.
void carry(const std::vector<int64_t>& sources, const float* old, float* made);

}  // namespace secateur
