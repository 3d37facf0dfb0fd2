// The inner loops of sparse linear layers, one table per instruction set.
//
// Activations are feature-major: the values of one feature for all samples are consecutive, x[feature][sample],
// with a leading dimension `ld` that is a multiple of 16 floats and not of 64 (rows that are a multiple of
// 256 bytes apart would share cache sets). Samples come in tiles of 16; the last one is padded, with zeros in
// packed inputs and gradients. Every function works for one thread on the range it is told.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur {

constexpr int kTileSamples = 16;
constexpr int kRowsPerBlock = 4;

// What an entry of a product is: a weight, or a block of four of them (block_kernels.h) that share a column of the
// layer. Of the transpose a block is in one row, and its entries still stand in the layer's own order.
enum class Entries { weights, blocks, transposed_blocks };

// y[r, :] = f(bias[r] + Σ_k values[k] · x[columns[k], :]) over the entries k of row r.
// The entries are stored in `blocks` blocks of columns, each sorted by row: row r's entries in block b are
// starts[b · rows + r] … starts[b · rows + r + 1].
struct Product {
  int32_t rows;
  int32_t blocks;
  const int32_t* starts;
  const int32_t* columns;
  const float* values;
  const float* x;
  int64_t ldx;
  float* y;
  int64_t ldy;
  const float* bias;        // null: zero
  const float* activation;  // not null (laid out as y): y is a gradient, and zero where this is ≤ 0
  bool relu;
  int32_t pass;  // tiles per sweep over the rows, so that the touched part of x stays in the second-level cache
  // Of blocks, `starts` and `columns` count blocks and `groups` of four rows of the layer, and the following are the
  // entries that are in none: by row of the layer's rest, or in the transpose by row of the transpose.
  Entries entries = Entries::weights;
  int32_t groups = 0;
  const int32_t* rest_starts = nullptr;
  const int32_t* rest_columns = nullptr;
  const float* rest_values = nullptr;
};

// out[k] = Σ_samples dy[row[k], :] · x[column[k], :]: the gradient of the weights that exist.
struct SampledProduct {
  const int32_t* row;
  const int32_t* column;
  const float* dy;
  int64_t ldy;
  const float* x;
  int64_t ldx;
};

// One group of 16 neighbouring columns of a row-major matrix of which some are wanted.
struct PackGroup {
  int32_t first;       // the first column
  int32_t count;       // how many columns there are (16, fewer at the border)
  int32_t target[16];  // the feature-major row each goes to, or -1
};

struct SgdRates {
  float lr, momentum, undamped, weight_decay;
  bool nesterov, first;
  float sign;  // -1 maximises
};

struct AdamRates {
  float step_size, beta1, beta2, eps, root_correction2, weight_decay, shrink;
  float sign;
};

struct SparseKernels {
  int lanes;
  void (*multiply)(const Product&, int32_t row0, int32_t row1, int32_t tile0, int32_t tile1);
  // out[k - k0] for k0 ≤ k < k1, over the tiles [tile0, tile1); adds to it if `accumulate`.
  void (*sampled)(const SampledProduct&, int64_t k0, int64_t k1, int32_t tile0, int32_t tile1, float* out,
                  bool accumulate);
  void (*gather)(const float* values, const int32_t* order, int64_t k0, int64_t k1, float* out);
  // y[r] = f(bias[r] + Σ values · x): one sample, x contiguous.
  void (*multiply_vector)(const Product&, int32_t row0, int32_t row1);
  void (*row_sums)(const float* dy, int64_t ldy, int32_t row0, int32_t row1, int32_t tiles, float* out);
  // Row-major samples × features to feature-major, zero-padded to whole tiles; and back (all features).
  void (*pack)(const float* x, int64_t stride, int64_t samples, const PackGroup*, int64_t group0, int64_t group1,
               int32_t tile0, int32_t tile1, float* out, int64_t ld);
  void (*unpack)(const float* y, int64_t ld, int32_t features, int64_t samples, int32_t tile0, int32_t tile1,
                 float* out, int64_t stride);
  // Softmax and cross-entropy of logits[class][sample]: the gradient of the mean loss, and the loss's sum.
  double (*cross_entropy)(const float* logits, int64_t ld, int32_t classes, int64_t samples,
                          const int64_t* targets, int32_t tile0, int32_t tile1, float* gradient);
  void (*sgd)(const SgdRates&, int64_t count, const float* gradient, float* value, float* velocity);
  void (*adam)(const AdamRates&, int64_t count, const float* gradient, float* value, float* mean, float* square);
  // The same for blocks: entries are blocks, `row` in SampledProduct is a group of rows, four values for each.
  void (*sampled_blocks)(const SampledProduct&, int64_t k0, int64_t k1, int32_t tile0, int32_t tile1, float* out,
                         bool accumulate);
};

// ------------------------------------------------------------------ full matrix products
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

SECATEUR_DECLARE_TABLE(SparseKernels, sparse_kernels)
SECATEUR_DECLARE_TABLE(DenseKernels, dense_kernels)
