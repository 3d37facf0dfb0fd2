// Products of float32 matrices by AMX: each number is the sum of two of bfloat16, of which three products are taken.
//
//     x = hi + lo + r, hi = bf16(x), lo = bf16(x − hi):  |lo| ≤ 2⁻⁸ |x|, |r| ≤ 2⁻¹⁶ |x|
//     x y ≈ hi hi' + hi lo' + lo hi', summed in float32: at most about 3 · 2⁻¹⁶ of |x y| is lost.
//
// That is what torch.set_float32_matmul_precision("high") asks for, and more than bfloat16 itself keeps. Below 1.2e-38
// numbers count as zero.

#pragma once

#include <cstdint>

namespace secateur {

// A split block has the tile of 32 · 16 first halves, then that of the second ones: as many bytes as the numbers had.
// Of a left matrix it is 16 rows and 32 columns, of a right one 32 rows and 16 columns, row by row of blocks.
constexpr int64_t kSplitDepth = 32, kSplitBlock = 512;

struct SplitKernels {
  void (*enter)();  // each thread, before it multiplies
  void (*leave)();
  // In place: left blocks that lie turned, [32 columns][16 rows].
  void (*weights)(float* u, int64_t blocks);
  // A left matrix of `rows` rows of `count` numbers, a multiple of 32. Rows that the last blocks have besides stay.
  void (*left)(const float* m, int64_t rows, int64_t count, float* to);
  // A right matrix of `rows` rows, and zeros up to a multiple of 32, of `count` numbers, a multiple of 16.
  void (*right)(const float* v, int64_t rows, int64_t count, float* to);
  // m[k][i] (+)= Σ_c left[k][c] · right[c][i] for `outputs` rows of `count` floats; depth: c, a multiple of 32.
  void (*multiply)(const float* left, const float* right, int64_t depth, int64_t outputs, int64_t count, bool add, float* m);
};

// Null where this processor has no tiles, where Linux refuses them, or where a lesser set of instructions is in use.
const SplitKernels* split_kernels();

}  // namespace secateur
