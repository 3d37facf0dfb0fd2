// The inner loop of full matrix products, one table per instruction set.

#pragma once

#include <cstdint>

#include "isa.h"

namespace secateur {

// y[i, :] = f(bias[i] + Σ_k a[i, k] · x[k, :]). The strides of `a` are free, so that it may stand transposed.
struct DenseProduct {
  int32_t depth;  // how many k there are
  const float* a;
  int64_t row_stride, depth_stride;  // a[i, k] = a[i · row_stride + k · depth_stride]
  const float* x;
  int64_t ldx;
  float* y;
  int64_t ldy;
  const float* bias = nullptr;        // null: zero
  const float* activation = nullptr;  // not null (laid out as y): y is a gradient, and zero where this is ≤ 0
  bool relu = false;
};

struct DenseKernels {
  int rows_at_once;
  // For one thread: the rows [row0, row1) and the columns [column0, column1) of y. Any range will do, but fastest are
  // rows in multiples of `rows_at_once` and columns in multiples of 16.
  void (*multiply)(const DenseProduct&, int32_t row0, int32_t row1, int64_t column0, int64_t column1);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(DenseKernels, dense_kernels)
