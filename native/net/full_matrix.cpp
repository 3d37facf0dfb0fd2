#include "net/full_matrix.h"

namespace secateur {
namespace {

// Measured with LeNet-300-100 on one core (docs/sparse.md).
constexpr double kFrom = 0.4;

}  // namespace

bool FullMatrix::pays(const SparseLayer& layer) {
  const int64_t all = int64_t(layer.rows()) * layer.columns();
  return !layer.of_blocks() && all < INT32_MAX && double(layer.count()) >= kFrom * double(all);
}

void FullMatrix::fill(const float* values, int index, int parts, float* matrix) const {
  const Range rows = share(rows_, index, parts);
  for (int32_t r = int32_t(rows.begin); r < rows.end; ++r) {
    float* row = matrix + int64_t(r) * columns_;
    for (int32_t b = 0; b < layer_->column_blocks(); ++b) {
      const Range entries = layer_->entries_of(b, r, r + 1);
      for (int64_t k = entries.begin; k < entries.end; ++k) row[layer_->entry_columns()[k]] = values[k];
    }
  }
}

DenseProduct FullMatrix::forward(const float* matrix, const float* x, const float* bias, bool relu, float* y,
                                 int64_t ld) const {
  return {columns_, matrix, columns_, 1, x, ld, y, ld, bias, nullptr, relu};
}

DenseProduct FullMatrix::backward(const float* matrix, const float* dy, const float* activation, float* dx,
                                  int64_t ld) const {
  return {rows_, matrix, 1, columns_, dy, ld, dx, ld, nullptr, activation};
}

void FullMatrix::gradient(const DenseKernels& kernels, const float* dy, int64_t ld, const float* x, int64_t stride,
                          int64_t samples, int32_t row0, int32_t row1, float* strip) const {
  const DenseProduct product{int32_t(samples), dy + row0 * ld, ld, 1, x, stride, strip, columns_};
  kernels.multiply(product, 0, row1 - row0, 0, columns_);
}

void FullMatrix::collect(const float* strip, int32_t row0, int32_t block, Range entries, float* out) const {
  for (int32_t r = row0; r < rows_; ++r, strip += columns_) {
    const Range row = layer_->entries_of(block, r, r + 1);
    if (row.begin >= entries.end) return;
    const int64_t end = std::min(row.end, entries.end);
    for (int64_t k = std::max(row.begin, entries.begin); k < end; ++k)
      out[k - entries.begin] = strip[layer_->entry_columns()[k]];
  }
}

}  // namespace secateur
