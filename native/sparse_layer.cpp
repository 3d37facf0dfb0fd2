#include "sparse_layer.h"

#include <stdexcept>
#include <string>

namespace secateur {
namespace {

// What one sweep touches should stay in the second-level cache, which is 1 MB or more on current servers.
constexpr int64_t kCacheBytes = 700 * 1024;
// Tiles whose products are summed before the weights' gradients are stored.
constexpr int32_t kGradientTiles = 8;

int32_t tiles_per_pass(int32_t alive) {
  const int64_t fitting = kCacheBytes / (64 * std::max<int64_t>(alive, 1));
  return int32_t(std::clamp<int64_t>(fitting, 2, 4));
}

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace

SparseLayer::SparseLayer(int64_t rows, int64_t columns, const int64_t* positions, int64_t count,
                         const int64_t* edges, int64_t edge_count) {
  require(rows > 0 && columns > 0 && rows < INT32_MAX && columns < INT32_MAX,
          "a layer's rows and columns must be in [1, 2^31), got " + std::to_string(rows) + " x " +
              std::to_string(columns));
  require(count >= 0 && count < INT32_MAX,
          "a layer must keep fewer than 2^31 weights, got " + std::to_string(count));
  require(edge_count >= 2 && edges[0] == 0 && edges[edge_count - 1] == columns,
          "the column blocks must begin at 0 and end at the number of columns");
  for (int64_t b = 1; b < edge_count; ++b)
    require(edges[b] > edges[b - 1], "the column blocks must be in ascending order");
  rows_ = int32_t(rows);
  columns_ = int32_t(columns);
  blocks_ = int32_t(edge_count - 1);
  starts_.assign(size_t(blocks_) * rows_ + 1, 0);
  row_.resize(count);
  column_.resize(count);
  int64_t block = 0, last = -1;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t position = positions[k];
    require(position >= 0 && position < rows * columns,
            "weight position " + std::to_string(position) + " lies outside the layer");
    const int64_t r = position / columns, c = position % columns;
    while (block < blocks_ && c >= edges[block + 1]) ++block, last = -1;
    require(block < blocks_ && c >= edges[block] && position > last,
            "weight positions must be sorted by block of columns, row and column, each once");
    last = position;
    row_[k] = int32_t(r);
    column_[k] = int32_t(c);
    ++starts_[size_t(block) * rows_ + r + 1];
  }
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  for (int32_t b = 0; b <= blocks_; ++b) block_starts_.push_back(starts_[size_t(b) * rows_]);
  row_work_.assign(rows + 1, 0);
  for (int64_t k = 0; k < count; ++k) ++row_work_[row_[k] + 1];
  for (int64_t r = 0; r < rows; ++r) {
    alive_rows_ += row_work_[r + 1] > 0;
    row_work_[r + 1] += row_work_[r] + 2;  // storing the row costs about two entries
  }
  build_transpose();
  build_pack();
}

void SparseLayer::build_transpose() {
  column_starts_.assign(size_t(columns_) + 1, 0);
  for (int32_t c : column_) ++column_starts_[c + 1];
  column_work_.assign(size_t(columns_) + 1, 0);
  for (int32_t c = 0; c < columns_; ++c) {
    alive_columns_ += column_starts_[c + 1] > 0;
    column_work_[c + 1] = column_work_[c] + column_starts_[c + 1] + 2;
    column_starts_[c + 1] += column_starts_[c];
  }
  column_rows_.resize(column_.size());
  order_.resize(column_.size());
  std::vector<int32_t> next(column_starts_.begin(), column_starts_.end() - 1);
  // A column lies in one block, and there its entries come by row: the transpose is sorted as well.
  for (size_t k = 0; k < column_.size(); ++k) {
    const int32_t at = next[column_[k]]++;
    column_rows_[at] = row_[k];
    order_[at] = int32_t(k);
  }
}

void SparseLayer::build_pack() {
  const auto groups = [](int32_t features, auto alive) {
    std::vector<PackGroup> found;
    for (int32_t first = 0; first < features; first += 16) {
      PackGroup group{first, std::min(16, features - first), {}};
      bool wanted = false;
      for (int32_t j = 0; j < 16; ++j) {
        const bool take = j < group.count && alive(first + j);
        group.target[j] = take ? first + j : -1;
        wanted = wanted || take;
      }
      if (wanted) found.push_back(group);
    }
    return found;
  };
  input_groups_ = groups(columns_, [this](int32_t c) { return column_starts_[c + 1] > column_starts_[c]; });
  // A row without weights still has a bias, so every gradient is wanted.
  output_groups_ = groups(rows_, [](int32_t) { return true; });
}

Range SparseLayer::split(const std::vector<int64_t>& work, int index, int parts) {
  const auto edge = [&](int i) -> int64_t {
    if (i >= parts) return int64_t(work.size()) - 1;
    const int64_t target = work.back() / parts * i + work.back() % parts * i / parts;
    return std::lower_bound(work.begin(), work.end(), target) - work.begin();
  };
  return {edge(index), edge(index + 1)};
}

Product SparseLayer::forward(const float* values, const float* x, const float* bias, bool relu, float* y,
                             int64_t ld) const {
  return {rows_, blocks_, starts_.data(), column_.data(), values, x, ld, y, ld, bias, nullptr, relu,
          tiles_per_pass(alive_columns_)};
}

Product SparseLayer::backward(const float* transposed, const float* dy, const float* activation, float* dx,
                              int64_t ld) const {
  return {columns_, 1, column_starts_.data(), column_rows_.data(), transposed, dy, ld, dx, ld, nullptr, activation,
          false, tiles_per_pass(alive_rows_)};
}

void SparseLayer::pack_input(const SparseKernels& kernels, const float* x, int64_t stride, int64_t samples, int index,
                             int parts, Range tiles, float* out, int64_t ld) const {
  const Range part = share(int64_t(input_groups_.size()), index, parts);
  kernels.pack(x, stride, samples, input_groups_.data(), part.begin, part.end, int32_t(tiles.begin),
               int32_t(tiles.end), out, ld);
}

void SparseLayer::pack_gradient(const SparseKernels& kernels, const float* dy, int64_t stride, int64_t samples,
                                int index, int parts, Range tiles, float* out, int64_t ld) const {
  const Range part = share(int64_t(output_groups_.size()), index, parts);
  kernels.pack(dy, stride, samples, output_groups_.data(), part.begin, part.end, int32_t(tiles.begin),
               int32_t(tiles.end), out, ld);
}

void SparseLayer::transpose_values(const SparseKernels& kernels, const float* values, Range entries,
                                   float* out) const {
  kernels.gather(values, order_.data(), entries.begin, entries.end, out);
}

void SparseLayer::gradient(const SparseKernels& kernels, const float* dy, const float* x, int64_t ld, int32_t tiles,
                           Range entries, float* out) const {
  const SampledProduct product{row_.data(), column_.data(), dy, ld, x, ld};
  for (int32_t b = 0; b < blocks_; ++b) {
    const int64_t k0 = std::max(entries.begin, block_starts_[b]);
    const int64_t k1 = std::min(entries.end, block_starts_[b + 1]);
    if (k0 >= k1) continue;
    for (int32_t t = 0; t < tiles; t += kGradientTiles) {
      const int32_t end = std::min(tiles, t + kGradientTiles);
      kernels.sampled(product, k0, k1, t, end, out + (k0 - entries.begin), t > 0);
    }
  }
}

}  // namespace secateur
