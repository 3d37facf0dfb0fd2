#include "layers/sparse_layer.h"

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
                         const int64_t* edges, int64_t edge_count, bool blocks) {
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
  count_ = count;
  if (blocks) {
    index_ = std::make_unique<BlockIndex>(rows, columns, positions, count, edges, edge_count);
  } else {
    index_entries(positions, count, edges, edge_count);
  }
  count_work();
  if (!blocks) build_transpose();
  build_pack();
}

void SparseLayer::index_entries(const int64_t* positions, int64_t count, const int64_t* edges, int64_t edge_count) {
  starts_.assign(size_t(blocks_) * rows_ + 1, 0);
  row_.resize(count);
  column_.resize(count);
  int64_t block = 0, last = -1;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t position = positions[k];
    if (position < 0 || position >= int64_t(rows_) * columns_)
      throw std::invalid_argument("weight position " + std::to_string(position) + " lies outside the layer");
    const int64_t r = position / columns_, c = position % columns_;
    while (block < edge_count - 1 && c >= edges[block + 1]) ++block, last = -1;
    if (block == edge_count - 1 || c < edges[block] || position <= last)
      throw std::invalid_argument("weight positions must be sorted by block of columns, row and column, each once");
    last = position;
    row_[k] = int32_t(r);
    column_[k] = int32_t(c);
    ++starts_[size_t(block) * rows_ + r + 1];
  }
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  for (int32_t b = 0; b <= blocks_; ++b) block_starts_.push_back(starts_[size_t(b) * rows_]);
}

void SparseLayer::count_work() {
  row_work_.assign(size_t(rows_) + 1, 0);
  column_starts_.assign(size_t(columns_) + 1, 0);
  const auto add = [this](int32_t row, int32_t column) {
    ++row_work_[size_t(row) + 1];
    ++column_starts_[size_t(column) + 1];
  };
  for (size_t k = 0; k < row_.size(); ++k) add(row_[k], column_[k]);
  if (index_) {
    for (size_t k = 0; k < index_->column.size(); ++k)
      for (int32_t i = 0; i < kRowsPerBlock; ++i) add(index_->group[k] * kRowsPerBlock + i, index_->column[k]);
    for (size_t k = 0; k < index_->rest_row.size(); ++k) add(index_->rest_row[k], index_->rest_column[k]);
  }
  for (int32_t r = 0; r < rows_; ++r) {
    alive_rows_ += row_work_[size_t(r) + 1] > 0;
    row_work_[size_t(r) + 1] += row_work_[size_t(r)] + 2;  // storing the row costs about two entries
  }
  column_work_.assign(size_t(columns_) + 1, 0);
  for (int32_t c = 0; c < columns_; ++c) {
    alive_columns_ += column_starts_[c + 1] > 0;
    column_work_[c + 1] = column_work_[c] + column_starts_[c + 1] + 2;
    column_starts_[c + 1] += column_starts_[c];
  }
}

void SparseLayer::build_transpose() {
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

Range SparseLayer::forward_rows(int index, int parts) const {
  const Range rows = split(row_work_, index, parts);
  if (!index_) return rows;
  const auto whole = [this](int64_t row) {
    return std::min<int64_t>(rows_, (row + kRowsPerBlock - 1) / kRowsPerBlock * kRowsPerBlock);
  };
  return {whole(rows.begin), whole(rows.end)};
}

Product SparseLayer::forward(const float* values, const float* x, const float* bias, bool relu, float* y,
                             int64_t ld) const {
  Product p{rows_, blocks_, starts_.data(), column_.data(), values, x, ld, y, ld, bias, nullptr, relu,
            tiles_per_pass(alive_columns_)};
  if (index_) {
    p.entries = Entries::blocks;
    p.groups = index_->groups;
    p.starts = index_->starts.data();
    p.columns = index_->column.data();
    p.rest_starts = index_->rest_starts.data();
    p.rest_columns = index_->rest_column.data();
    p.rest_values = values + index_->entries();
  }
  return p;
}

Product SparseLayer::backward(const float* values, const float* transposed, const float* dy, const float* activation,
                              float* dx, int64_t ld) const {
  Product p{columns_, 1, column_starts_.data(), column_rows_.data(), transposed, dy, ld, dx, ld, nullptr, activation,
            false, tiles_per_pass(alive_rows_)};
  if (index_) {
    p.entries = Entries::transposed_blocks;
    p.groups = index_->groups;
    p.blocks = blocks_;
    p.starts = index_->starts.data();
    p.columns = index_->column.data();
    p.values = values;
    p.rest_starts = index_->rest_column_starts.data();
    p.rest_columns = index_->rest_column_rows.data();
    p.rest_values = transposed + index_->entries();
  }
  return p;
}

void SparseLayer::pack_input(const SparseKernels& kernels, const float* x, int64_t stride, int64_t samples, int index,
                             int parts, Range tiles, float* out, int64_t ld) const {
  const Range part = share(int64_t(input_groups_.size()), index, parts);
  kernels.pack(x, stride, samples, input_groups_.data(), part.begin, part.end, int32_t(tiles.begin),
               int32_t(tiles.end), out, ld);
}

void SparseLayer::clear_unpacked(int index, int parts, Range tiles, float* out, int64_t ld) const {
  const Range mine = share(columns_, index, parts);
  for (int64_t c = mine.begin; c < mine.end; ++c) {
    if (column_starts_[size_t(c) + 1] > column_starts_[size_t(c)]) continue;
    std::fill(out + c * ld + tiles.begin * kTileSamples, out + c * ld + tiles.end * kTileSamples, 0.0f);
  }
}

void SparseLayer::pack_gradient(const SparseKernels& kernels, const float* dy, int64_t stride, int64_t samples,
                                int index, int parts, Range tiles, float* out, int64_t ld) const {
  const Range part = share(int64_t(output_groups_.size()), index, parts);
  kernels.pack(dy, stride, samples, output_groups_.data(), part.begin, part.end, int32_t(tiles.begin),
               int32_t(tiles.end), out, ld);
}

void SparseLayer::transpose_values(const SparseKernels& kernels, const float* values, Range entries,
                                   float* out) const {
  if (!index_) return kernels.gather(values, order_.data(), entries.begin, entries.end, out);
  const int64_t whole = index_->entries();
  kernels.gather(values, index_->rest_order.data(), std::max(entries.begin, whole) - whole, entries.end - whole,
                 out + whole);
}

void SparseLayer::gradient(const SparseKernels& kernels, const float* dy, const float* x, int64_t ld, int32_t tiles,
                           Range entries, float* out) const {
  if (index_) return block_gradient(kernels, dy, x, ld, tiles, entries, out);
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

void SparseLayer::block_gradient(const SparseKernels& kernels, const float* dy, const float* x, int64_t ld,
                                 int32_t tiles, Range entries, float* out) const {
  const BlockIndex& index = *index_;
  const SampledProduct blocks{index.group.data(), index.column.data(), dy, ld, x, ld};
  const SampledProduct rest{index.rest_row.data(), index.rest_column.data(), dy, ld, x, ld};
  const int64_t whole = index.entries();
  const Range mine{entries.begin / kRowsPerBlock, std::min(entries.end, whole) / kRowsPerBlock};
  const Range single{std::max(entries.begin, whole) - whole, entries.end - whole};
  for (int32_t t = 0; t < tiles; t += kGradientTiles) {
    const int32_t end = std::min(tiles, t + kGradientTiles);
    if (mine.begin < mine.end)
      kernels.sampled_blocks(blocks, mine.begin, mine.end, t, end, out + mine.begin * kRowsPerBlock - entries.begin, t > 0);
    if (single.begin < single.end)
      kernels.sampled(rest, single.begin, single.end, t, end, out + whole + single.begin - entries.begin, t > 0);
  }
}

}  // namespace secateur
