// Which places of a matrix are occupied, told one after another with a probability that learns.
//
// A place has a context: how often its column was occupied in the rows above (16 steps), how often its row was a moment ago
// (12 steps), and whether the two places before it and the one above it are. Each context has a probability that adapts.
// All of it is whole numbers, so that every machine, and secateur/coding/_places.py, which is the same in Python, finds
// the same; docs/archive.md has it to the last bit.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace secateur {

constexpr int column_steps = 16;
constexpr int row_steps = 12;
constexpr int neighbours = 8;
constexpr int contexts = column_steps * row_steps * neighbours;

// Where the steps end, in 4,096ths: the logistic function at -7.5, -6.75, ... 3 and at -5.25, ... 2.25.
constexpr int column_edges[column_steps - 1] = {2,   5,   10,  21,   45,   94,   194, 391,
                                                748, 1315, 2048, 2781, 3348, 3705, 3902};
constexpr int row_edges[row_steps - 1] = {21, 45, 94, 194, 391, 748, 1315, 2048, 2781, 3348, 3705};

constexpr int slowest_column = 60;
constexpr int slowest_row = 16;
constexpr int slowest_context = 1022;
constexpr uint32_t always = 0xffffffffu;

// What has been learnt, between two parts of a tensor. Probabilities have 32 bits.
struct PlaceModel {
  int64_t width;        // entries of a row
  uint32_t* columns;    // [width] how often each was occupied
  uint8_t* above;       // [width] the row above
  uint32_t* context;    // [contexts] the probability in each
  uint16_t* seen;       // [contexts] how many places it has seen
  uint32_t* row;        // [3] how often the row is occupied; at its beginning; the two places before, in bits
};

struct PlaceSteps {
  std::array<uint8_t, 4096> column{};
  std::array<uint8_t, 4096> row{};

  PlaceSteps() {
    for (int i = 0; i < 4096; ++i) {
      for (int edge : column_edges) column[i] += edge <= i;
      for (int edge : row_edges) row[i] += edge <= i;
    }
  }
};

inline const PlaceSteps& place_steps() {
  static const PlaceSteps steps;
  return steps;
}

inline uint32_t nearer(uint32_t probability, bool bit, int64_t rate) {
  const int64_t target = bit ? always : 0;
  return static_cast<uint32_t>(probability + (((target - int64_t{probability}) * rate) >> 16));
}

inline uint32_t coded(uint32_t probability) {
  const uint32_t high = probability >> 16;
  return high == 0 ? 1 : high;
}

// Calls coder(place, probability) -> bit for the places from `begin` to `end`, counted row after row, and learns.
template <class Coder>
void each_place_coded(const PlaceModel& model, int64_t begin, int64_t end, Coder&& coder) {
  const PlaceSteps& steps = place_steps();
  std::array<uint16_t, slowest_context + 1> context_rate;
  for (int n = 0; n <= slowest_context; ++n) context_rate[n] = static_cast<uint16_t>(65536 / (n + 2));
  int64_t row = begin / model.width, column = begin % model.width;
  uint32_t often = model.row[0], before = model.row[2];
  for (int64_t place = begin; place < end;) {
    if (column == 0) {
      often = model.row[1];
      before = 0;
    }
    const int64_t column_rate = row < slowest_column ? 65536 * 5 / (5 * row + 8) : 65536 / slowest_column;
    const int64_t stop = std::min(model.width, column + (end - place));
    for (; column < stop; ++column, ++place) {
      uint32_t& column_often = model.columns[column];
      const int context = (steps.column[column_often >> 20] * row_steps + steps.row[often >> 20]) * neighbours +
                          static_cast<int>(before) + 4 * model.above[column];
      const bool bit = coder(place, coded(model.context[context]));
      uint16_t& seen = model.seen[context];
      model.context[context] = nearer(model.context[context], bit, context_rate[seen]);
      seen += seen < slowest_context;
      column_often = nearer(column_often, bit, column_rate);
      often = nearer(often, bit, column < slowest_row - 6 ? 65536 / (column + 6) : 65536 / slowest_row);
      before = (before << 1 | bit) & 3;
      model.above[column] = bit;
    }
    if (column == model.width) {
      column = 0;
      ++row;
    }
  }
  model.row[0] = often;
  model.row[2] = before;
}

}  // namespace secateur
