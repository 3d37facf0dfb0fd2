// The inner loops of radix selection; compiled once per instruction set (see isa.h for the rule to obey).
//
// Plain loops over short blocks: the compiler vectorises the arithmetic on keys for whatever set it is
// given, and only the increments of the counts, which cannot be vectorised, run one by one.

#include "select/select.h"

namespace secateur::SECATEUR_ISA {
namespace {

constexpr int block_size = 64;

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

inline uint64_t eight(const uint8_t* bytes) {
  uint64_t word;
  __builtin_memcpy(&word, bytes, 8);
  return word;
}

// First without branches, in vectors: 0 below the bracket, 1 in it, 2 above. Then eight of these bytes at a time.
template <class Bits>
int64_t split(const Bits* scores, int64_t size, Bits low, Bits high, uint8_t* mask, Candidate<Bits>* found,
              SplitCounts<Bits>* counts) {
  constexpr Bits magnitude = ~Bits{0} >> 1;
  constexpr uint64_t ones = 0x0101010101010101u;
  alignas(64) uint8_t grade[split_size];
  Bits largest = counts->largest;
  for (int64_t i = 0; i < size; ++i) {
    const Bits key = key_of(scores[i]), length = scores[i] & magnitude;
    grade[i] = static_cast<uint8_t>((key > low) + (key > high));
    largest = length > largest ? length : largest;
  }
  counts->largest = largest;

  // Where a group of eight has candidates is noted without a branch: it could not be predicted.
  uint16_t groups[split_size / 8];
  int64_t noted = 0, above = 0, i = 0;
  for (; i + 8 <= size; i += 8) {
    const uint64_t grades = eight(grade + i), kept = grades >> 1 & ones;
    __builtin_memcpy(mask + i, &kept, 8);
    above += __builtin_popcountll(kept);
    groups[noted] = static_cast<uint16_t>(i);
    noted += (grades & ones) != 0;
  }
  int64_t candidates = 0;
  for (int64_t group = 0; group < noted; ++group) {
    for (uint64_t inside = eight(grade + groups[group]) & ones; inside != 0; inside &= inside - 1) {
      const int64_t j = groups[group] + (__builtin_ctzll(inside) >> 3);
      found[candidates++] = {static_cast<Bits>(j), key_of(scores[j])};
    }
  }
  for (; i < size; ++i) {
    mask[i] = grade[i] >> 1;
    above += grade[i] >> 1;
    if (grade[i] == 1) found[candidates++] = {static_cast<Bits>(i), key_of(scores[i])};
  }
  counts->above += above;
  return candidates;
}

}  // namespace

const SelectKernels<uint32_t> select_float32 = {
    count_first_digit<uint32_t>, count_next_digit<uint32_t>, fill_mask<uint32_t>, trim_ties<uint32_t>,
    split<uint32_t>};
const SelectKernels<uint64_t> select_float64 = {
    count_first_digit<uint64_t>, count_next_digit<uint64_t>, fill_mask<uint64_t>, trim_ties<uint64_t>,
    split<uint64_t>};

}  // namespace secateur::SECATEUR_ISA
