// Radix selection: which of many floating-point scores are the `keep` largest?
//
// Scores are compared by an unsigned integer key with the order of the numbers themselves (-0.0 and +0.0
// share one key). A pass counts one 16-bit digit of the key over all scores that agree with the digits
// chosen so far; the caller walks the 65,536 counts from the top, picks the digit in which the last kept
// score lies, and runs the next pass: two passes find the exact threshold of float32 scores, four that of
// float64. A last pass writes the masks. Nothing is copied, sorted or concatenated.
//
// Where scores rarely tie, one pass does it all (topk.cpp): a sample says between which two keys the threshold lies,
// the pass writes the masks and collects the few scores in between, and those are ranked by themselves.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur {

constexpr int digit_bits = 16;
constexpr int64_t digit_values = int64_t{1} << digit_bits;

// The key of a score: unsigned, in the order of the numbers. Negative numbers are stored as sign and
// magnitude, so their order is turned round by flipping all bits; positive ones only move above them.
// (static: kernel files include this.)
template <class Bits>
static inline Bits key_of(Bits bits) {
  constexpr int last = sizeof(Bits) * 8 - 1;
  constexpr Bits sign = Bits{1} << last;
  const Bits canonical = bits == sign ? Bits{0} : bits;  // -0.0 ties with +0.0
  return canonical ^ ((Bits{0} - (canonical >> last)) | sign);
}

// Scores that are split at a time: few enough for the nearest cache.
constexpr int64_t split_size = 2048;

// A score that may or may not be kept: where it lies in its part of the tensor, and its key.
template <class Bits>
struct Candidate {
  Bits place;
  Bits key;
};

// What a pass over a part of a tensor found besides its candidates.
template <class Bits>
struct SplitCounts {
  int64_t above = 0;  // keys above the bracket
  Bits largest = 0;   // the largest magnitude, in bits: that of a NaN or an infinity has all bits of the exponent
};

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

  // mask = key > high; writes every score with low < key ≤ high to `found` in order, and returns how many those are.
  // For at most `split_size` scores; `found` has room for as many. Counts are added to.
  int64_t (*split)(const Bits* scores, int64_t size, Bits low, Bits high, uint8_t* mask, Candidate<Bits>* found,
                   SplitCounts<Bits>* counts);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(SelectKernels<uint32_t>, select_float32)
SECATEUR_DECLARE_TABLE(SelectKernels<uint64_t>, select_float64)
