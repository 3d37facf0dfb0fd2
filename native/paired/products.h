// The three products of a layer of blocks of 64 outputs × 2 inputs, of bfloat16 numbers. They need a set with pairs
// (`paired` of half/kernels.h), and throw std::logic_error without one.

#pragma once

#include "paired/layer.h"
#include "half/products.h"

namespace secateur::half {

void round_values(const PairedLayer&, const float* values, uint16_t* packed, int threads);
void forward(const PairedLayer&, Packed, const Matrix& x, const float* bias, const Matrix& y, int threads);
void input_gradient(const PairedLayer&, Packed, const Matrix& dy, const Matrix& dx, int threads);
void weight_gradient(const PairedLayer&, const Matrix& x, const Matrix& dy, float* dvalues, int threads);

}  // namespace secateur::half
