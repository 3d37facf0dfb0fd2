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

FullMatrix::FullMatrix(const SparseLayer& layer)
    : rows_(layer.rows()), columns_(layer.columns()) {
  place_.resize(size_t(layer.count()));
  for (size_t k = 0; k < place_.size(); ++k) place_[k] = layer.entry_rows()[k] * columns_ + layer.entry_columns()[k];
}

void FullMatrix::fill(const float* values, int index, int parts, float* matrix) const {
  const Range entries = share(int64_t(place_.size()), index, parts);
  for (int64_t k = entries.begin; k < entries.end; ++k) matrix[place_[size_t(k)]] = values[k];
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

void FullMatrix::collect(const float* strip, int32_t row0, Range entries, float* out) const {
  const int64_t first = int64_t(row0) * columns_;
  for (int64_t k = entries.begin; k < entries.end; ++k) out[k - entries.begin] = strip[place_[size_t(k)] - first];
}

}  // namespace secateur
