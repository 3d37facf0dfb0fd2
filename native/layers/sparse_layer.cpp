#include "layers/sparse_layer.h"

#include "base/caches.h"

namespace secateur {
namespace {

// Tiles whose products are summed before the weights' gradients are stored.
constexpr int32_t kGradientTiles = 8;

int32_t tiles_per_pass(int32_t alive) {
  // What one sweep touches should stay in the second-level cache, of which others have a share.
  const int64_t fitting = second_level_bytes() * 7 / 10 / (64 * std::max<int64_t>(alive, 1));
  return int32_t(std::clamp<int64_t>(fitting, 2, 4));
}

}  // namespace

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
  const int32_t* rows = index_ ? nullptr : transpose(1).rows.data();
  Product p{columns_, 1, column_starts_.data(), rows, transposed, dy, ld, dx, ld, nullptr, activation, false,
            tiles_per_pass(alive_rows_)};
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
  if (!index_) return kernels.gather(values, transpose(1).order.data(), entries.begin, entries.end, out);
  const int64_t whole = index_->entries();
  kernels.gather(values, index_->rest_order.data(), std::max(entries.begin, whole) - whole, entries.end - whole,
                 out + whole);
}

void SparseLayer::gradient(const SparseKernels& kernels, const float* dy, const float* x, int64_t ld, int32_t tiles,
                           Range entries, float* out, bool add) const {
  if (index_) return block_gradient(kernels, dy, x, ld, tiles, entries, out, add);
  const SampledProduct product{entry_rows(), column_.data(), dy, ld, x, ld};
  for (int32_t b = 0; b < blocks_; ++b) {
    const int64_t k0 = std::max(entries.begin, block_starts_[b]);
    const int64_t k1 = std::min(entries.end, block_starts_[b + 1]);
    if (k0 >= k1) continue;
    for (int32_t t = 0; t < tiles; t += kGradientTiles) {
      const int32_t end = std::min(tiles, t + kGradientTiles);
      kernels.sampled(product, k0, k1, t, end, out + (k0 - entries.begin), add || t > 0);
    }
  }
}

void SparseLayer::block_gradient(const SparseKernels& kernels, const float* dy, const float* x, int64_t ld,
                                 int32_t tiles, Range entries, float* out, bool add) const {
  const BlockIndex& index = *index_;
  const SampledProduct blocks{index.group.data(), index.column.data(), dy, ld, x, ld};
  const SampledProduct rest{index.rest_row.data(), index.rest_column.data(), dy, ld, x, ld};
  const int64_t whole = index.entries();
  const Range mine{entries.begin / kRowsPerBlock, std::min(entries.end, whole) / kRowsPerBlock};
  const Range single{std::max(entries.begin, whole) - whole, entries.end - whole};
  for (int32_t t = 0; t < tiles; t += kGradientTiles) {
    const int32_t end = std::min(tiles, t + kGradientTiles);
    if (mine.begin < mine.end)
      kernels.sampled_blocks(blocks, mine.begin, mine.end, t, end, out + mine.begin * kRowsPerBlock - entries.begin, add || t > 0);
    if (single.begin < single.end)
      kernels.sampled(rest, single.begin, single.end, t, end, out + whole + single.begin - entries.begin, add || t > 0);
  }
}

}  // namespace secateur
