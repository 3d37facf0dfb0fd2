// The three products of a layer from blocks of 32 × 32: order of the loops, threads, edges of the matrices.

#pragma once

#include "half/layer.h"

namespace secateur::half {

// Numbers outside, one row for each sample.
struct Matrix {
  void* at;
  int64_t stride, samples;
  bool bf16;  // or float32
};

// The layer's values, rounded; kPadding more than counted may be read.
using Packed = const uint16_t*;

void round_values(const HalfLayer&, const float* values, uint16_t* packed, int threads);

// y [samples, rows] = x Wᵀ + bias; bias may be null.
void forward(const HalfLayer&, Packed, const Matrix& x, const float* bias, const Matrix& y, int threads);

// dx [samples, columns] = dy W.
void input_gradient(const HalfLayer&, Packed, const Matrix& dy, const Matrix& dx, int threads);

// dvalues, in the plan's order: of dyᵀ x what the mask keeps.
void weight_gradient(const HalfLayer&, const Matrix& x, const Matrix& dy, float* dvalues, int threads);

}  // namespace secateur::half
