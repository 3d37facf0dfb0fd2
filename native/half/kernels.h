// What a set of instructions provides to multiply 32 × 32 blocks of numbers that are rounded to bfloat16.
//
// Sums are float32. A "left" block has the rows of the result, a "right" block its columns:
//     sums[32][32] (+)= left[32][k] · right[k][32], for 32 values of k at a time.
// How blocks lie in memory is a set's own affair: as pairs of bfloat16 where instructions multiply such pairs
// (vdpbf16ps, AMX), or as the same numbers in float32, for the others.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur::half {

constexpr int kSide = 32;
constexpr int kBlock = kSide * kSide;
constexpr int kPadding = 32;  // weights behind the last one that may be read: a row is read whole, whatever its mask

// A corner of a matrix outside, of at most 32 × 32 numbers; a block has zeros beyond it.
struct Corner {
  const void* at;
  int64_t stride;  // from row to row, in numbers
  int rows, columns;
  bool bf16;       // or float32
};

// The same for what is written.
struct Target {
  void* at;
  int64_t stride;
  int rows, columns;
  bool bf16;
};

// What blocks of 64 outputs × 2 inputs need besides: only sets with pairs of bfloat16 have it.
//
// A "line" is 64 bytes: of a right block one pair of rows for sixteen columns, of a left one a row.
struct PairedKernels {
  // Four rows of weights as lie together outside, [32 · lines][4], to rows of left blocks that follow each other.
  void (*round_four)(const float* values, int64_t lines, uint16_t* rows);
  // Right blocks made of `count` pairs of rows of others; the second half of the columns only if it is needed.
  void (*take)(const void* right, const int32_t* pairs, int64_t count, bool both_halves, void* to);
  // One left block made of up to sixteen pairs of neighbouring rows.
  void (*take_rows)(const void* left, const int32_t* pairs, int64_t count, void* to);
  // Rows of sums, two for each pair, added to the rows of `to` that the pairs name.
  void (*add_rows)(const float* sums, const int32_t* pairs, int64_t count, float* to);
  // One sample: its pairs in a row, as many as fill `lines` lines; then sums[32] = left blocks [32 rows] · those.
  void (*take_line)(const void* x, const int32_t* pairs, int64_t count, int64_t lines, void* to);
  void (*panel)(const uint16_t* left, int64_t lines, const void* x, float* sums);
};

struct Kernels {
  int64_t block_bytes;

  void (*enter)();  // each thread, before it multiplies
  void (*leave)();

  // A corner as a block, where columns contract (straight left, turned right) or rows do (turned left, straight right).
  void (*left)(const Corner&, void* block);
  void (*left_turned)(const Corner&, void* block);
  void (*right)(const Corner&, void* block);
  void (*right_turned)(const Corner&, void* block);

  // A block of weights [32 outputs][32 inputs] from its masks (a word for each output) and packed values: as a left
  // block inputs contract, as a right one outputs do.
  void (*weights_left)(const uint32_t* masks, const uint16_t* values, void* block);
  void (*weights_right)(const uint32_t* masks, const uint16_t* values, void* block);

  // Of `count` pairs of blocks, left[lefts[i]] · right[rights[i]]; only the first `rows` and `columns` are needed.
  void (*multiply)(const void* left, const int32_t* lefts, const void* right, const int32_t* rights, int count,
                   int rows, int columns, bool add, float* sums);

  // One sample: sums[32] = one panel of weights [32 outputs][32 · count inputs] · x, whose numbers lie as `line` put
  // them. `first`: where each block's values begin, and the end.
  void (*line)(const Corner&, void* x);  // a row
  void (*panel)(const uint32_t* masks, const uint16_t* values, const int32_t* first, int64_t count, const void* x,
                float* sums);

  // The sums to a matrix outside: as they lie, or turned with a bias for each row of sums (each column outside).
  void (*write)(const float* sums, const Target&);
  void (*write_turned)(const float* sums, const float* bias, const Target&);

  // The sums that are weights' gradients to float32 values: row r goes to values + starts[r].
  void (*pick)(const float* sums, const uint32_t* masks, const int32_t* starts, float* values);
  // The other way round, rounded: the values of a block's rows, from values + starts[r], in a row behind each other.
  void (*round)(const uint32_t* masks, const int32_t* starts, const float* values, uint16_t* packed);

  const PairedKernels* paired;  // null: there are none
};

// Factors as float32; what a set does not have of its own it has from here.
// float_kernel.cpp is compiled once for each set of base/isa.h; these only where the compiler knows the instructions.
#if defined(SECATEUR_HAVE_AVX512_BF16)
Kernels with_pairs(Kernels base);  // vdpbf16ps
#endif
#if defined(SECATEUR_HAVE_AMX)
Kernels with_tiles(Kernels base);  // tdpbf16ps; `base` has pairs already
#endif

}  // namespace secateur::half

namespace secateur {
using HalfKernels = half::Kernels;
}
SECATEUR_DECLARE_TABLE(HalfKernels, half_kernels)
