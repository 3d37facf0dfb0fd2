// The inner loops of radix selection; compiled once per instruction set (see isa.h for the rule to obey).
//
// Plain loops over short blocks: the compiler vectorises the arithmetic on keys for whatever set it is
// given, and only the increments of the counts, which cannot be vectorised, run one by one.

#include "select/select.h"

namespace secateur::SECATEUR_ISA {
namespace {

constexpr int block_size = 64;

// The key of a score: unsigned, in the order of the numbers. Negative numbers are stored as sign and
// magnitude, so their order is turned round by flipping all bits; positive ones only move above them.
template <class Bits>
inline Bits key_of(Bits bits) {
  constexpr Bits sign = Bits{1} << (sizeof(Bits) * 8 - 1);
  const Bits canonical = bits == sign ? Bits{0} : bits;  // -0.0 ties with +0.0
  const Bits flip = (canonical & sign) != 0 ? ~Bits{0} : sign;
  return canonical ^ flip;
}

template <class Bits>
void count_first_digit(const Bits* scores, int64_t size, int64_t* counts) {
  constexpr int shift = sizeof(Bits) * 8 - digit_bits;
  int64_t i = 0;
  for (; i + block_size <= size; i += block_size) {
    uint16_t digit[block_size];
    for (int j = 0; j < block_size; ++j) digit[j] = static_cast<uint16_t>(key_of(scores[i + j]) >> shift);
    for (int j = 0; j < block_size; ++j) ++counts[digit[j]];
  }
  for (; i < size; ++i) ++counts[key_of(scores[i]) >> shift];
}

// Few scores share the prefix: most blocks hold none, and vector code finds that out.
template <class Bits>
inline void count_block(const Bits* scores, int length, int shift, Bits prefix, int64_t* counts) {
  const int prefix_shift = shift + digit_bits;
  Bits key[block_size];
  Bits matches = 0;
  for (int j = 0; j < length; ++j) {
    key[j] = key_of(scores[j]);
    matches += (key[j] >> prefix_shift) == prefix;
  }
  if (matches == 0) return;
  for (int j = 0; j < length; ++j) {
    if ((key[j] >> prefix_shift) == prefix) ++counts[(key[j] >> shift) & (digit_values - 1)];
  }
}

template <class Bits>
void count_next_digit(const Bits* scores, int64_t size, int shift, Bits prefix, int64_t* counts) {
  int64_t i = 0;
  for (; i + block_size <= size; i += block_size) count_block(scores + i, block_size, shift, prefix, counts);
  if (i < size) count_block(scores + i, static_cast<int>(size - i), shift, prefix, counts);
}

template <class Bits>
int64_t fill_mask(const Bits* scores, int64_t size, Bits threshold, uint8_t* mask) {
  int64_t ties = 0;
  int64_t i = 0;
  for (; i + block_size <= size; i += block_size) {
    Bits block_ties = 0;
    for (int j = 0; j < block_size; ++j) {
      const Bits key = key_of(scores[i + j]);
      mask[i + j] = key >= threshold;
      block_ties += key == threshold;
    }
    ties += static_cast<int64_t>(block_ties);
  }
  for (; i < size; ++i) {
    const Bits key = key_of(scores[i]);
    mask[i] = key >= threshold;
    ties += key == threshold;
  }
  return ties;
}

template <class Bits>
void trim_ties(const Bits* scores, int64_t size, Bits threshold, int64_t keep, uint8_t* mask) {
  for (int64_t i = 0; i < size; ++i) {
    if (mask[i] != 0 && key_of(scores[i]) == threshold) {
      if (keep > 0) {
        --keep;
      } else {
        mask[i] = 0;
      }
    }
  }
}

}  // namespace

const SelectKernels<uint32_t> select_float32 = {
    count_first_digit<uint32_t>, count_next_digit<uint32_t>, fill_mask<uint32_t>, trim_ties<uint32_t>};
const SelectKernels<uint64_t> select_float64 = {
    count_first_digit<uint64_t>, count_next_digit<uint64_t>, fill_mask<uint64_t>, trim_ties<uint64_t>};

}  // namespace secateur::SECATEUR_ISA
