// What a set of instructions provides to multiply weights of eight bits by samples of eight bits.
//
// Weights are signed. Samples are signed, too, but stored 128 higher, as VNNI wants one factor without a sign; what that
// adds to a sum is 128 times the sum of its row's weights, which is subtracted at the end. Sums are exact integers.
//
//     left  [32 rows][64 inputs]                         weights
//     right [2 halves][16 fours][16 samples][4 inputs]   samples
//     sums  [32 rows][32 samples]

#pragma once

#include <cstdint>

#include "half/kernels.h"

namespace secateur::int8 {

constexpr int kRows = 32;     // of a block of weights, and samples of a tile
constexpr int kInputs = 64;
constexpr int kBlock = kRows * kInputs;  // bytes
constexpr int kPadding = 64;  // weights behind the last one that may be read
constexpr int kOffset = 128;

struct Kernels {
  void (*enter)();  // each thread, before it multiplies
  void (*leave)();

  // One row of a matrix outside, `count` numbers: rounded to multiples of the scale, its largest magnitude / 127, as
  // `blocks` times 64 bytes. A row below 1e-36 is 0; the scale of one that is not finite is NaN.
  void (*round)(const void* from, bool bf16, int64_t count, int64_t blocks, uint8_t* to, float* scale);
  // Rows of 64 such bytes, `stride` apart, 32 of them, as a right block.
  void (*right)(const uint8_t* rows, int64_t stride, void* block);
  // A left block from its masks, a word for each row, and packed values.
  void (*expand)(const uint64_t* masks, const int8_t* values, void* block);
  // Of `count` pairs of blocks, left[i] · right[rights[i]].
  void (*multiply)(const int8_t* left, const uint8_t* right, const int32_t* rights, int count, int rows, int columns,
                   bool add, int32_t* sums);
  // One sample, 64 bytes for each of `count` blocks of one panel; `first`: where each block's values begin.
  void (*panel)(const uint64_t* masks, const int8_t* values, const int32_t* first, int64_t count, const uint8_t* x,
                int32_t* sums);
  // sums to numbers outside, turned: (sum − 128 · total[row]) · (scale[row] · of[sample]) + bias[row].
  void (*write)(const int32_t* sums, const int32_t* totals, const float* scales, const float* of, const float* bias,
                const half::Target&);
};

#if defined(SECATEUR_HAVE_VNNI)
extern const Kernels vnni_kernels;
#endif
#if defined(SECATEUR_HAVE_AMX_INT8)
Kernels with_tiles(Kernels base);
#endif

}  // namespace secateur::int8
