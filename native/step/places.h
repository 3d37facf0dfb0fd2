// From a dense mask to the places of a layer's weights, and from one mask to the next: what a step that follows a
// changing mask does between two of its steps.

#pragma once

#include <cstdint>
#include <vector>

namespace secateur {

// Whether the rows and columns taken of a mask keep whole blocks of four rows of one column, but for the last rows;
// and at least one.
bool whole_blocks(const bool* mask, int64_t rows, int64_t columns, const bool* taken_rows, const bool* taken_columns);

// A flag for each column: whether any of the rows given keeps a weight of it.
std::vector<uint8_t> used_columns(const bool* mask, int64_t rows, int64_t columns, const bool* taken);

struct Places {
  std::vector<int64_t> positions;  // in the matrix of the rows and columns taken, as SparseLayer wants them
  std::vector<int64_t> edges;      // its blocks of columns
  int64_t taken_rows = 0, taken_columns = 0;
  std::vector<int64_t> rows;    // those taken, then the others
  std::vector<int64_t> places;  // the same weights in the dense matrix, then those in the other rows
};

// The blocks have about equally many columns with a weight in the rows of `counted`, at most `block_columns`.
Places place_weights(const bool* mask, int64_t rows, int64_t columns, const bool* taken_rows, const bool* taken_columns,
                     const bool* counted, int64_t block_columns);

// For each place of `to`, where in `from` it is, or −1; `size` is larger than any place.
std::vector<int64_t> match(const int64_t* from, int64_t from_count, const int64_t* to, int64_t to_count, int64_t size);
// made[i] = old[sources[i]], or 0.
void carry(const std::vector<int64_t>& sources, const float* old, float* made);

}  // namespace secateur
