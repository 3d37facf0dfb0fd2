// Going through masks: a byte, 0 or 1, for each weight.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace secateur {

inline uint64_t eight_flags(const bool* flags) {
  uint64_t bytes;
  std::memcpy(&bytes, flags, 8);
  return bytes;
}

inline int64_t count_flags(const bool* flags, int64_t size) {
  int64_t found = 0, i = 0;
  for (; i + 8 <= size; i += 8) found += int64_t(eight_flags(flags + i) * 0x0101010101010101u >> 56);
  for (; i < size; ++i) found += flags[i];
  return found;
}

// Calls body(i) for every true flag in [first, last). Most are false, so 64 of them are looked at together: one branch
// that is guessed wrong costs as much as dozens of flags.
template <class Body>
void each_kept(const bool* flags, int64_t first, int64_t last, Body body) {
  int64_t i = first;
  for (; i + 64 <= last; i += 64) {
    uint64_t bits = 0;  // byte 0 or 1 of flag j to bit j
    for (int j = 0; j < 8; ++j) bits |= (eight_flags(flags + i + 8 * j) * 0x0102040810204080u >> 56) << (8 * j);
    for (; bits; bits &= bits - 1) body(i + __builtin_ctzll(bits));
  }
  for (; i < last; ++i)
    if (flags[i]) body(i);
}

// A mask of a dense weight, and which of its rows and columns are taken into a layer.
struct Taken {
  const bool* mask;
  int64_t rows, columns;
  const bool* taken_rows;
  const bool* taken_columns;

  static std::vector<int32_t> listed(const bool* taken, int64_t size) {
    std::vector<int32_t> found;
    for (int64_t i = 0; i < size; ++i)
      if (taken[i]) found.push_back(int32_t(i));
    return found;
  }
};

// A flag for each column: whether any of the rows given keeps a weight of it.
inline std::vector<uint8_t> used_columns(const bool* mask, int64_t rows, int64_t columns, const bool* taken) {
  std::vector<uint8_t> used(size_t(columns), 0);
  uint8_t* __restrict to = used.data();
  for (int64_t r = 0; r < rows; ++r) {
    if (!taken[r]) continue;
    const auto* __restrict row = reinterpret_cast<const uint8_t*>(mask + r * columns);
    for (int64_t c = 0; c < columns; ++c) to[c] = uint8_t(to[c] | row[c]);
  }
  return used;
}

}  // namespace secateur
