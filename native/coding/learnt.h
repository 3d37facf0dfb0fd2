// Bytes bit by bit, the highest first, each by what has come at its node of the binary tree of those before it.
//
// Nothing but the number of bits is told beforehand: few symbols cost less than a table of their frequencies would.
// secateur/coding/_learnt.py is the same in Python, byte for byte.

#pragma once

#include <cstdint>

namespace secateur {

constexpr uint32_t most_seen = 32767;  // at a node, before both counts are halved

// Calls code(index, level, probability of a one in 65,536ths), which returns the bit, for every bit of `size` symbols.
template <class Code>
void each_bit_learnt(int bits, int64_t size, Code&& code) {
  uint32_t seen[256][2] = {};
  for (int64_t index = 0; index < size; ++index) {
    uint32_t node = 1;
    for (int level = bits - 1; level >= 0; --level) {
      uint32_t(&counts)[2] = seen[node];
      const bool bit = code(index, level, ((2 * counts[1] + 1) << 15) / (counts[0] + counts[1] + 1));
      if (++counts[bit] + counts[!bit] == most_seen) counts[0] >>= 1, counts[1] >>= 1;
      node = 2 * node + bit;
    }
  }
}

}  // namespace secateur
