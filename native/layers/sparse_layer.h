// What is known about one masked linear layer before any number flows: where its weights are.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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

  int32_t rows() const { return rows_; }
  int32_t columns() const { return columns_; }
  int64_t count() const { return count_; }
  bool of_blocks() const { return index_ != nullptr; }
  // Where each entry is; not of layers of blocks, which have a BlockIndex instead.
  const int32_t* entry_rows() const { return row_.data(); }
  const int32_t* entry_columns() const { return column_.data(); }
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
  // out[k − entries.begin] = the gradient of entry k; ranges begin and end at multiples of four, or at the end.
  void gradient(const SparseKernels&, const float* dy, const float* x, int64_t ld, int32_t tiles, Range entries,
                float* out) const;

 private:
  static Range split(const std::vector<int64_t>& work, int index, int parts);
  void index_entries(const int64_t* positions, int64_t count, const int64_t* edges, int64_t edge_count);
  void count_work();
  void build_transpose();
  void block_gradient(const SparseKernels&, const float* dy, const float* x, int64_t ld, int32_t tiles, Range entries,
                      float* out) const;
  void build_pack();

  int32_t rows_, columns_, blocks_;
  int64_t count_ = 0;
  std::unique_ptr<const BlockIndex> index_;  // of a layer of blocks
  int32_t alive_rows_ = 0, alive_columns_ = 0;
  std::vector<int32_t> starts_, row_, column_;
  std::vector<int64_t> block_starts_;                     // first entry of each block, and the end
  std::vector<int32_t> column_starts_, column_rows_, order_;  // the transpose; order_: where its values are
  std::vector<int64_t> row_work_, column_work_;           // running totals
  std::vector<PackGroup> input_groups_, output_groups_;
};

}  // namespace secateur
