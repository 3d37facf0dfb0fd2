// The inner loops of sparse convolutions, one table per instruction set.
//
// Activations lie in tiles of 16 samples, samples innermost: x[tile][channel][row][column][sample], with a border of
// zeros (halo) around each channel where a convolution reads beyond it. A kept weight is one multiply-add of 16
// samples for every position of the output; its place in the input is a single offset from the position.

#pragma once

#include <cstdint>

#include "base/isa.h"

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

// ------------------------------------------------------------------ by Winograd's algorithm
// The inner loops of 3×3 convolutions whose weights are nearly all there, by Winograd's algorithm F(4×4, 3×3): the
// sixteen outputs of a patch take 36 multiplications for each pair of channels, not 144. One table per instruction set.
//
// With the 6×6 inputs d of a patch, the weights g and three constant matrices, Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin and
// Gray, arXiv 1509.09308, eq. 8). The 36 entries are the points; each needs a product of matrices over the channels.
// The gradient of the weights is Gᵀ[Σ (A dY Aᵀ) ⊙ (Bᵀ d B)]G over all patches.
//
// A patch of 16 samples is a unit. Vectors run over samples, so that no transform moves anything between lanes.

constexpr int kPatch = 4;   // outputs of a patch, along either side
constexpr int kPoints = 36;
constexpr int kRowsOfBlock = 16;  // output channels whose transformed weights lie side by side

// The units of one channel: unit u is the patch (u / across % down, u % across) of tile u / (across · down).
struct WinogradPlane {
  float* at;  // what the patch (0, 0) of tile 0 begins with
  int64_t tile, row;
  int64_t next;  // from here to the channel that comes next, which is fetched ahead
  int32_t down, across, height, width;  // of the image; patches may reach beyond it
};

struct WinogradKernels {
  // w: nine planes of [inputs, outputs], zero where a weight is missing; u[output block][input][16], with `depth` inputs in
  // each block, the points `stride` floats apart. Outputs are a multiple of 16. Computes the inputs [c0, c1).
  void (*weights)(const float* w, int64_t inputs, int64_t depth, int64_t outputs, int64_t c0, int64_t c1, int64_t stride,
                  float* u);
  // v[(point − 6 · row0) · stride + (unit − u0) · 16] = Bᵀ d B for the units [u0, u1), its rows [row0, row1) of six.
  void (*input)(const WinogradPlane& x, int row0, int row1, int64_t u0, int64_t u1, int64_t stride, float* v);
  // The same of A dY Aᵀ.
  void (*gradient)(const WinogradPlane& dy, int row0, int row1, int64_t u0, int64_t u1, int64_t stride, float* v);
  // m[k][i] (+)= Σ_c u[k / 16][c][k % 16] · v[c][i] for `outputs` rows of `count` floats, a multiple of 16.
  void (*multiply)(const float* u, const float* v, int64_t inputs, int64_t outputs, int64_t count, bool add, float* m);
  // y = Aᵀ m A + bias, where the image has it; added to y, or rectified.
  void (*output)(const float* m, int64_t stride, int64_t u0, int64_t u1, float bias, bool relu, bool add,
                 const WinogradPlane& y);
  // to[r / 16 · block + i · step + r % 16] = from[r][i] for `rows` rows of `count` floats, a multiple of 16; whatever
  // lies there where the last 16 rows are fewer.
  void (*transpose)(const float* from, int64_t rows, int64_t count, int64_t step, int64_t block, float* to);
  // out[9][16] = Gᵀ s G for 16 pairs of channels, s[point · stride + pair].
  void (*weight_gradient)(const float* sums, int64_t stride, float* out);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(ConvKernels, conv_kernels)
SECATEUR_DECLARE_TABLE(WinogradKernels, winograd_kernels)
