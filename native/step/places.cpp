#include "step/places.h"

#include <algorithm>
#include <cstring>

#include "base/room.h"
#include "kernels/sparse_kernels.h"

namespace secateur {
namespace {

uint64_t eight(const bool* flags) {
  uint64_t bytes;
  std::memcpy(&bytes, flags, 8);
  return bytes;
}

int64_t count(const bool* flags, int64_t size) {
  int64_t found = 0, i = 0;
  for (; i + 8 <= size; i += 8) found += int64_t(eight(flags + i) * 0x0101010101010101u >> 56);
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
    for (int j = 0; j < 8; ++j) bits |= (eight(flags + i + 8 * j) * 0x0102040810204080u >> 56) << (8 * j);
    for (; bits; bits &= bits - 1) body(i + __builtin_ctzll(bits));
  }
  for (; i < last; ++i)
    if (flags[i]) body(i);
}

std::vector<int64_t> cut(const std::vector<uint8_t>& used, int64_t block_columns) {
  const int64_t columns = int64_t(used.size());
  const int64_t total = std::count(used.begin(), used.end(), uint8_t{1});
  const int64_t blocks = std::max<int64_t>(1, (total + block_columns - 1) / block_columns);
  std::vector<int64_t> edges{0};
  int64_t seen = 0;
  for (int64_t c = 0; c < columns; ++c) {
    seen += used[size_t(c)];
    const int64_t b = int64_t(edges.size());
    if (b < blocks && seen >= total * b / blocks) edges.push_back(c + 1);
  }
  if (edges.back() < columns) edges.push_back(columns);
  return edges;
}

}  // namespace

bool whole_blocks(const bool* mask, int64_t rows, int64_t columns, const bool* taken_rows, const bool* taken_columns) {
  std::vector<const bool*> taken;
  for (int64_t r = 0; r < rows; ++r)
    if (taken_rows[r]) taken.push_back(mask + r * columns);
  bool any = false;
  for (size_t r = 0; r < taken.size() / kRowsPerBlock * kRowsPerBlock; ++r) {
    const bool* first = taken[r / kRowsPerBlock * kRowsPerBlock];
    for (int64_t c = 0; c < columns; ++c) {
      if (taken_columns[c] && taken[r][c] != first[c]) return false;
      any = any || (taken_columns[c] && first[c]);
    }
  }
  return any;
}

std::vector<uint8_t> used_columns(const bool* mask, int64_t rows, int64_t columns, const bool* taken) {
  std::vector<uint8_t> used(size_t(columns), 0);
  uint8_t* __restrict to = used.data();
  for (int64_t r = 0; r < rows; ++r) {
    if (!taken[r]) continue;
    const auto* __restrict row = reinterpret_cast<const uint8_t*>(mask + r * columns);
    for (int64_t c = 0; c < columns; ++c) to[c] = uint8_t(to[c] | row[c]);
  }
  return used;
}

Places place_weights(const bool* mask, int64_t rows, int64_t columns, const bool* taken_rows, const bool* taken_columns,
                     const bool* counted, int64_t block_columns) {
  std::vector<int64_t> number(size_t(columns), 0);  // of each column among those taken
  std::vector<int64_t> taken;
  for (int64_t c = 0; c < columns; ++c) {
    number[size_t(c)] = int64_t(taken.size());
    if (taken_columns[c]) taken.push_back(c);
  }
  const std::vector<uint8_t> used = used_columns(mask, rows, columns, counted);
  std::vector<uint8_t> used_of_taken;
  for (int64_t c : taken) used_of_taken.push_back(used[size_t(c)]);
  Places found;
  const int64_t kept = count(mask, rows * columns);
  found.places.reserve(size_t(kept));
  found.positions.reserve(size_t(kept));
  for (const bool idle : {false, true}) {
    for (int64_t r = 0; r < rows; ++r)
      if (taken_rows[r] != idle) found.rows.push_back(r);
    if (!idle) found.taken_rows = int64_t(found.rows.size());
  }
  found.taken_columns = int64_t(taken.size());
  found.edges = cut(used_of_taken, block_columns);
  for (size_t b = 0; b + 1 < found.edges.size(); ++b) {
    const int64_t first = taken[size_t(found.edges[b])], last = taken[size_t(found.edges[b + 1] - 1)] + 1;
    int64_t row_of_taken = 0;
    for (int64_t r = 0; r < rows; ++r) {
      if (!taken_rows[r]) continue;
      each_kept(mask + r * columns, first, last, [&](int64_t c) {
        if (!taken_columns[c]) return;  // nothing comes from there
        found.positions.push_back(row_of_taken * int64_t(taken.size()) + number[size_t(c)]);
        found.places.push_back(r * columns + c);
      });
      ++row_of_taken;
    }
  }
  for (int64_t r = 0; r < rows; ++r)
    if (!taken_rows[r])
      each_kept(mask + r * columns, 0, columns, [&](int64_t c) { found.places.push_back(r * columns + c); });
  return found;
}

std::vector<int64_t> match(const int64_t* from, int64_t from_count, const int64_t* to, int64_t to_count, int64_t size) {
  // at[p] is where place p may be in `from`; what is there for other places is anything, and shows as such.
  auto* at = reinterpret_cast<uint32_t*>(scratch(Scratch::places, size));
  for (int64_t i = 0; i < from_count; ++i) at[from[i]] = uint32_t(i);
  std::vector<int64_t> sources(size_t(to_count), -1);
  for (int64_t i = 0; i < to_count; ++i) {
    const uint32_t found = at[to[i]];
    if (found < from_count && from[found] == to[i]) sources[size_t(i)] = found;
  }
  return sources;
}

void carry(const std::vector<int64_t>& sources, const float* old, float* made) {
  for (size_t i = 0; i < sources.size(); ++i) made[i] = sources[i] < 0 ? 0.0f : old[sources[i]];
}

}  // namespace secateur
