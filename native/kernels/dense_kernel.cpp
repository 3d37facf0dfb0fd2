// Full matrix products, for layers that keep most of their weights. Compiled once per instruction set.
//
// A block of y stays in registers while k runs: with kRows · kVecs sums, each vector of x that is read serves kRows
// multiply-adds and each weight kVecs, so that the cores' multipliers are the limit and not the caches.

#include "kernels/sparse_kernels.h"

#include "base/vec.h"
#include "kernels/product_row.h"

namespace secateur::SECATEUR_ISA {
namespace {

constexpr int kRows = 6;
#if defined(__AVX512F__)
constexpr int kVecs = 4;  // 24 sums of 32 registers
#else
constexpr int kVecs = 2;  // 12 sums of 16 registers
#endif

template <int R, int V>
void multiply_block(const DenseProduct& p, int32_t row, int64_t column) {
  Vec sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) sum[r][i] = splat(p.bias ? p.bias[row + r] : 0.0f);
  }
  const float* a = p.a + row * p.row_stride;
  const float* x = p.x + column;
  for (int32_t k = 0; k < p.depth; ++k, a += p.depth_stride, x += p.ldx) {
    Vec xs[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) xs[i] = load(x + i * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) sum[r][i] += xs[i] * a[r * p.row_stride];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) finish_row<V>(p, row + r, column, sum[r]);
}

template <int V>
void multiply_columns(const DenseProduct& p, int32_t row0, int32_t row1, int64_t column) {
  int32_t row = row0;
  for (; row + kRows <= row1; row += kRows) multiply_block<kRows, V>(p, row, column);
  for (; row + 2 <= row1; row += 2) multiply_block<2, V>(p, row, column);
  if (row < row1) multiply_block<1, V>(p, row, column);
}

// Fewer columns than a vector has lanes.
void multiply_few(const DenseProduct& p, int32_t row0, int32_t row1, int64_t column0, int64_t column1) {
  for (int32_t row = row0; row < row1; ++row) {
    for (int64_t column = column0; column < column1; ++column) {
      float sum = p.bias ? p.bias[row] : 0.0f;
      for (int32_t k = 0; k < p.depth; ++k)
        sum += p.a[row * p.row_stride + k * p.depth_stride] * p.x[k * p.ldx + column];
      const int64_t at = row * p.ldy + column;
      if (p.relu && sum < 0.0f) sum = 0.0f;
      if (p.activation && p.activation[at] <= 0.0f) sum = 0.0f;
      p.y[at] = sum;
    }
  }
}

void multiply(const DenseProduct& p, int32_t row0, int32_t row1, int64_t column0, int64_t column1) {
  if (column1 - column0 < kLanes) return multiply_few(p, row0, row1, column0, column1);
  int64_t column = column0;
  for (; column + kVecs * kLanes <= column1; column += kVecs * kLanes) multiply_columns<kVecs>(p, row0, row1, column);
  const int vecs = int((column1 - column) / kLanes);
  if (vecs == 3) multiply_columns<3>(p, row0, row1, column);
  if (vecs == 2) multiply_columns<2>(p, row0, row1, column);
  if (vecs == 1) multiply_columns<1>(p, row0, row1, column);
  column += vecs * kLanes;
  // What is left of a vector is computed together with columns that have been computed already.
  if (column < column1) multiply_columns<1>(p, row0, row1, column1 - kLanes);
}

}  // namespace

extern const DenseKernels dense_kernels = {kRows, multiply};

}  // namespace secateur::SECATEUR_ISA
