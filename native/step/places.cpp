#include "step/places.h"

#include <algorithm>
#include <stdexcept>

#include "base/room.h"
#include "kernels/sparse_kernels.h"

namespace secateur {
bool whole_blocks(const bool* mask, int64_t rows, int64_t columns, const bool* taken_rows, const bool* taken_columns) {
  std::vector<const bool*> taken;
  for (int64_t r = 0; r < rows; ++r)
    if (taken_rows[r]) taken.push_back(mask + r * columns);
  bool any = false;
  for (size_t r = 0; r < taken.size() / kRowsPerBlock * kRowsPerBlock; ++r) {
    const bool* first = taken[r / kRowsPerBlock * kRowsPerBlock];
    for (int64_t c = 0; c < columns; ++c) {
      if (taken_columns[c] && taken[r][c] != first[c]) return false;
      any = any || (taken_columns[c] && first[c]);
    }
  }
  return any;
}

DensePlaces::DensePlaces(std::shared_ptr<const SparseLayer> layer)
    : layer_(std::move(layer)), dense_rows_(layer_->rows()), dense_columns_(layer_->columns()) {}

DensePlaces::DensePlaces(std::shared_ptr<const SparseLayer> layer, const Taken& taken)
    : layer_(std::move(layer)), dense_rows_(taken.rows), dense_columns_(taken.columns) {
  rows_ = Taken::listed(taken.taken_rows, taken.rows);
  columns_ = Taken::listed(taken.taken_columns, taken.columns);
  if (int64_t(rows_.size()) != layer_->rows() || int64_t(columns_.size()) != layer_->columns())
    throw std::invalid_argument("the layer must have as many rows and columns as are taken");
  for (int64_t r = 0; r < taken.rows; ++r)
    if (!taken.taken_rows[r])
      each_kept(taken.mask + r * taken.columns, 0, taken.columns,
                [&](int64_t c) { idle_.push_back(r * taken.columns + c); });
}

// Calls body(i, place) for each of them.
template <class Body>
void DensePlaces::each(int threads, Body body) const {
  run_team(threads, [&](int thread, int team) {
    if (rows_.empty()) {
      layer_->each_entry(thread, team, [&](int64_t k, int64_t r, int64_t c) { body(k, r * dense_columns_ + c); });
    } else {
      layer_->each_entry(thread, team, [&](int64_t k, int64_t r, int64_t c) {
        body(k, rows_[size_t(r)] * dense_columns_ + columns_[size_t(c)]);
      });
    }
    if (thread) return;
    for (size_t i = 0; i < idle_.size(); ++i) body(layer_->count() + int64_t(i), idle_[i]);
  });
}

void DensePlaces::take(const float* dense, float* values, int threads) const {
  each(threads, [&](int64_t i, int64_t place) { values[i] = dense[place]; });
}

void DensePlaces::put(const float* values, float* dense, int threads) const {
  each(threads, [&](int64_t i, int64_t place) { dense[place] = values[i]; });
}

std::vector<int64_t> DensePlaces::listed(int threads) const {
  std::vector<int64_t> found(static_cast<size_t>(count()));
  each(threads, [&](int64_t i, int64_t place) { found[size_t(i)] = place; });
  return found;
}

std::vector<int64_t> match(const int64_t* from, int64_t from_count, const int64_t* to, int64_t to_count, int64_t size) {
  // at[p] is where place p may be in `from`; what is there for other places is anything, and shows as such.
  auto* at = reinterpret_cast<uint32_t*>(scratch(Scratch::places, size));
  for (int64_t i = 0; i < from_count; ++i) at[from[i]] = uint32_t(i);
  std::vector<int64_t> sources(size_t(to_count), -1);
  for (int64_t i = 0; i < to_count; ++i) {
    const uint32_t found = at[to[i]];
    if (found < from_count && from[found] == to[i]) sources[size_t(i)] = found;
  }
  return sources;
}

void carry(const std::vector<int64_t>& sources, const float* old, float* made) {
  for (size_t i = 0; i < sources.size(); ++i) made[i] = sources[i] < 0 ? 0.0f : old[sources[i]];
}

}  // namespace secateur
