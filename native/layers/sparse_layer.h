// What is known about one masked linear layer before any number flows: where its weights are.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/flags.h"
#include "base/numbers.h"
#include "base/team.h"
#include "kernels/sparse_kernels.h"
#include "layers/block_index.h"

namespace secateur {

// How many tiles hold these samples.
inline int32_t tiles_of(int64_t samples) { return int32_t((samples + kTileSamples - 1) / kTileSamples); }

class SparseLayer {
 public:
  // `positions[k] = row · columns + column` of entry k, in storage order: by block of columns, then row, then
  // column. Block b has the columns edges[b] … edges[b + 1]. Throws std::invalid_argument for anything else, so
  // that the kernels need not check. With `blocks` they are in the order of BlockIndex.
  SparseLayer(int64_t rows, int64_t columns, const int64_t* positions, int64_t count, const int64_t* edges,
              int64_t edge_count, bool blocks = false);
  // The same from a mask: of the rows and columns taken, in blocks of columns of which at most `block_columns` each
  // have weights in the rows `counted`, about equally many. Not of blocks of four rows.
  SparseLayer(const Taken& taken, const bool* counted, int64_t block_columns, int threads);

  int32_t rows() const { return rows_; }
  int32_t columns() const { return columns_; }
  int64_t count() const { return count_; }
  bool of_blocks() const { return index_ != nullptr; }
  // Where each entry is; not of layers of blocks, which have a BlockIndex instead. The rows, of which only gradients
  // ask, are written out when they are asked for first, and so is the transpose.
  const int32_t* entry_rows() const { return rows_of_entries(1); }
  const int32_t* entry_columns() const { return column_.data(); }
  // Writes them out now, with several threads: `transpose` says whether the input's gradient will be asked for.
  void prepare_gradients(bool transpose, int threads) const;
  // Calls body(k, row, column) for every entry k of part `index` of `parts`.
  template <class Body>
  void each_entry(int index, int parts, Body body) const;
  const std::vector<int64_t>& edges() const { return edges_; }
  // The entries of the rows [row0, row1) in a block of columns. Not of layers of blocks.
  int32_t column_blocks() const { return blocks_; }
  Range entries_of(int32_t block, int32_t row0, int32_t row1) const {
    const int32_t* starts = starts_.data() + int64_t(block) * rows_;
    return {starts[row0], starts[row1]};
  }
  // The groups of 16 columns that have weights, and where each goes.
  const std::vector<PackGroup>& input_groups() const { return input_groups_; }
  int32_t alive_rows() const { return alive_rows_; }
  int32_t alive_columns() const { return alive_columns_; }

  // y = W x + bias for the rows and tiles given.
  Product forward(const float* values, const float* x, const float* bias, bool relu, float* y, int64_t ld) const;
  // dx = Wᵀ dy, zero where `activation` is not positive; `transposed` are the values as transpose_values gave them.
  Product backward(const float* values, const float* transposed, const float* dy, const float* activation, float* dx,
                   int64_t ld) const;

  // Rows (of W, or of Wᵀ) for part `index` of `parts`: about equal work.
  Range forward_rows(int index, int parts) const;
  Range backward_rows(int index, int parts) const { return split(column_work_, index, parts); }
  // The transposed entries for part `index` of `parts`.
  Range transposed_entries(int index, int parts) const { return share(count(), index, parts, 16); }

  // Row-major samples to feature-major: the columns that have weights, or all rows; part `index` of `parts`.
  void pack_input(const SparseKernels&, const float* x, int64_t stride, int64_t samples, int index, int parts,
                  Range tiles, float* out, int64_t ld) const;
  // Zeros for the columns that pack_input leaves out; part `index` of `parts`.
  void clear_unpacked(int index, int parts, Range tiles, float* out, int64_t ld) const;
  void pack_gradient(const SparseKernels&, const float* dy, int64_t stride, int64_t samples, int index, int parts,
                     Range tiles, float* out, int64_t ld) const;
  void transpose_values(const SparseKernels&, const float* values, Range entries, float* out) const;
  // out[k − entries.begin] = the gradient of entry k, or it is added to what is there; ranges begin and end at multiples
  // of four, or at the end.
  void gradient(const SparseKernels&, const float* dy, const float* x, int64_t ld, int32_t tiles, Range entries,
                float* out, bool add = false) const;

 private:
  static Range split(const std::vector<int64_t>& work, int index, int parts);
  void set_sizes(int64_t rows, int64_t columns, int64_t count);
  void index_entries(const int64_t* positions);
  void index_mask(const Taken& taken, const std::vector<int32_t>& columns, int threads);
  void count_work();
  const int32_t* rows_of_entries(int threads) const;
  struct Transpose {
    Numbers rows, order;  // of the entries by column, then row; and where their values are
    std::once_flag made;
  };
  const Transpose& transpose(int threads) const;
  void block_gradient(const SparseKernels&, const float* dy, const float* x, int64_t ld, int32_t tiles, Range entries,
                      float* out, bool add) const;
  void build_pack();

  int32_t rows_, columns_, blocks_;
  int64_t count_ = 0;
  std::unique_ptr<const BlockIndex> index_;  // of a layer of blocks
  int32_t alive_rows_ = 0, alive_columns_ = 0;
  std::vector<int64_t> edges_;         // of the blocks of columns
  std::vector<int32_t> starts_;        // starts_[block · rows + row]: first entry
  Numbers column_;                     // of each entry
  std::vector<int64_t> block_starts_;  // first entry of each block, and the end
  std::vector<int32_t> column_starts_;  // first entry of each column in the transpose
  mutable Numbers row_;                // of each entry
  mutable std::once_flag row_made_;
  mutable Transpose transpose_;
  std::vector<int64_t> row_work_, column_work_;           // running totals
  std::vector<PackGroup> input_groups_, output_groups_;
};

template <class Body>
void SparseLayer::each_entry(int index, int parts, Body body) const {
  if (!index_) {
    const Range mine = share(rows_, index, parts);
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      for (int32_t b = 0; b < blocks_; ++b) {
        const Range entries = entries_of(b, int32_t(r), int32_t(r) + 1);
        for (int64_t k = entries.begin; k < entries.end; ++k) body(k, r, int64_t(column_[k]));
      }
    }
    return;
  }
  const Range blocks = share(int64_t(index_->column.size()), index, parts);
  for (int64_t j = blocks.begin; j < blocks.end; ++j) {
    for (int64_t i = 0; i < kRowsPerBlock; ++i)
      body(j * kRowsPerBlock + i, int64_t(index_->group[size_t(j)]) * kRowsPerBlock + i,
           int64_t(index_->column[size_t(j)]));
  }
  const Range rest = share(int64_t(index_->rest_row.size()), index, parts);
  for (int64_t k = rest.begin; k < rest.end; ++k)
    body(index_->entries() + k, int64_t(index_->rest_row[size_t(k)]), int64_t(index_->rest_column[size_t(k)]));
}

}  // namespace secateur
