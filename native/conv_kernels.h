// The inner loops of sparse convolutions, one table per instruction set.
//
// Activations lie in tiles of 16 samples, samples innermost: x[tile][channel][row][column][sample], with a border of
// zeros (halo) around each channel where a convolution reads beyond it. A kept weight is one multiply-add of 16
// samples for every position of the output; its place in the input is a single offset from the position.

#pragma once

#include <cstdint>

#include "isa.h"

namespace secateur {

constexpr int kMostGroups = 8;      // rows or tiles that are computed together
constexpr int kMostPositions = 24;  // neighbouring positions of a group

// y[r, g, i] = f(start + Σ_k values[k] · x[offsets[k] + x_group[g] + i · step]) over the entries k of row r, for
// `groups` × `positions` positions at once. All offsets are in floats.
struct ConvPass {
  const int32_t* starts;  // row r's entries: starts[r] … ends[r]
  const int32_t* ends;
  const int32_t* offsets;
  const float* values;
  const float* x;
  float* y;
  int64_t y_row;            // from one row (channel) of y to the next
  int64_t y_step;           // from one position to the next
  int64_t x_group[kMostGroups], y_group[kMostGroups];
  const float* bias;        // null: zero
  bool add;                 // start with y, not with the bias
  bool relu;
};

constexpr int kBlockRows = 4;

// The same for blocks of four rows whose weights read much the same inputs: an input that one of them reads is
// loaded once for all four, and a weight that is missing is a zero. Block b has the taps starts[b] … starts[b + 1],
// tap k the weights values[4 k] … values[4 k + 3] of the rows rows[4 b] … rows[4 b + 3].
struct ConvBlocks {
  const int32_t* starts;
  const int32_t* offsets;
  const float* values;
  const int32_t* rows;
};

// out[k] += Σ over tiles, rows, columns and samples of dy · x[offsets[k]]: the gradient of some weights of one
// output channel.
struct ConvGradient {
  const int32_t* offsets;
  const float* x;
  const float* dy;
  int32_t tiles, rows, columns;
  int64_t x_tile, x_row, x_step, dy_tile, dy_row;  // dy's step is one position, 16 floats
};

struct ConvKernels {
  int accumulators;        // groups × positions must not exceed it
  int block_accumulators;  // the same for blocks
  // Rows [row0, row1); step: positions of x from one position of y to the next.
  void (*convolve)(const ConvPass&, int32_t row0, int32_t row1, int groups, int positions, int64_t step);
  // Blocks [block0, block1); the pass's own starts, offsets and values are not read.
  void (*convolve_blocks)(const ConvPass&, const ConvBlocks&, int32_t block0, int32_t block1, int groups,
                          int positions, int64_t step);
  void (*gradient)(const ConvGradient&, int64_t k0, int64_t k1, float* out);
  // out[4 (k − k0) + r] += the gradient of tap k in row r, whose dy begins at rows[r], for the taps k0 ≤ k < k1 of
  // one block. `out` has room for a multiple of four taps.
  void (*block_gradient)(const ConvGradient&, const float* const* rows, int64_t k0, int64_t k1, float* out);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(ConvKernels, conv_kernels)
