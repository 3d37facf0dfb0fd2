// The inner loops of 3×3 convolutions whose weights are nearly all there, by Winograd's algorithm F(4×4, 3×3): the
// sixteen outputs of a patch take 36 multiplications for each pair of channels, not 144. One table per instruction set.
//
// With the 6×6 inputs d of a patch, the weights g and three constant matrices, Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin and
// Gray, arXiv 1509.09308, eq. 8). The 36 entries are the points; each needs a product of matrices over the channels.
// The gradient of the weights is Gᵀ[Σ (A dY Aᵀ) ⊙ (Bᵀ d B)]G over all patches.
//
// A patch of 16 samples is a unit. Vectors run over samples, so that no transform moves anything between lanes.

#pragma once

#include <cstdint>

#include "isa.h"

namespace secateur {

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
  // w: nine planes of [inputs, outputs], zero where a weight is missing; u[output block][input][16], the points
  // `stride` floats apart. Outputs are a multiple of 16. Computes the inputs [c0, c1).
  void (*weights)(const float* w, int64_t inputs, int64_t outputs, int64_t c0, int64_t c1, int64_t stride, float* u);
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

SECATEUR_DECLARE_TABLE(WinogradKernels, winograd_kernels)
