// Radix selection: which of many floating-point scores are the `keep` largest?
//
// Scores are compared by an unsigned integer key with the order of the numbers themselves (-0.0 and +0.0
// share one key). A pass counts one 16-bit digit of the key over all scores that agree with the digits
// chosen so far; the caller walks the 65,536 counts from the top, picks the digit in which the last kept
// score lies, and runs the next pass: two passes find the exact threshold of float32 scores, four that of
// float64. A last pass writes the masks. Nothing is copied, sorted or concatenated.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur {

constexpr int digit_bits = 16;
constexpr int64_t digit_values = int64_t{1} << digit_bits;

// `Bits` is the unsigned integer as wide as the score: uint32_t for float32, uint64_t for float64.
template <class Bits>
struct SelectKernels {
  // Adds the most significant digit of every score to counts[digit].
  void (*count_first_digit)(const Bits* scores, int64_t size, int64_t* counts);

  // Adds the digit at bit `shift` of every score whose higher digits equal `prefix` to counts[digit].
  void (*count_next_digit)(const Bits* scores, int64_t size, int shift, Bits prefix, int64_t* counts);

  // mask = score ≥ threshold; returns how many scores equal the threshold.
  int64_t (*fill_mask)(const Bits* scores, int64_t size, Bits threshold, uint8_t* mask);

  // Clears the mask of all scores equal to the threshold but for the first `keep` of them.
  void (*trim_ties)(const Bits* scores, int64_t size, Bits threshold, int64_t keep, uint8_t* mask);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(SelectKernels<uint32_t>, select_float32)
SECATEUR_DECLARE_TABLE(SelectKernels<uint64_t>, select_float64)
