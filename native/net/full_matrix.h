// A layer that keeps most of its weights, computed as a full matrix with zeros in it: there, multiplying by a zero is
// cheaper than looking up where the weights are. The weights are still stored, and updated, without the zeros.

#pragma once

#include <cstdint>
#include <memory>

#include "kernels/sparse_kernels.h"
#include "layers/sparse_layer.h"

namespace secateur {

class FullMatrix {
 public:
  // Whether that is faster than the sparse product, by the share of weights that the layer keeps.
  static bool pays(const SparseLayer& layer);

  explicit FullMatrix(std::shared_ptr<const SparseLayer> layer)
      : layer_(std::move(layer)), rows_(layer_->rows()), columns_(layer_->columns()) {}

  // Takes the kept weights over into a matrix of zeros, row by row; part `index` of `parts`.
  void fill(const float* values, int index, int parts, float* matrix) const;

  // y = W x + bias, and dx = Wᵀ dy, of features that lie as in sparse_kernels.h. All features of x must be defined.
  DenseProduct forward(const float* matrix, const float* x, const float* bias, bool relu, float* y, int64_t ld) const;
  DenseProduct backward(const float* matrix, const float* dy, const float* activation, float* dx, int64_t ld) const;

  // strip[row − row0, :] = Σ_samples dy[row, sample] · x[sample, :] for all columns: x is row-major, one row per sample.
  void gradient(const DenseKernels&, const float* dy, int64_t ld, const float* x, int64_t stride, int64_t samples,
                int32_t row0, int32_t row1, float* strip) const;
  // out[k − entries.begin] = the gradient of entry k of a block of columns, from a strip that begins with row0.
  void collect(const float* strip, int32_t row0, int32_t block, Range entries, float* out) const;

  int64_t floats() const { return int64_t(rows_) * columns_; }
  int64_t bytes() const { return 4 * floats(); }

 private:
  std::shared_ptr<const SparseLayer> layer_;
  int32_t rows_, columns_;
};

}  // namespace secateur
