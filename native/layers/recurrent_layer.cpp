#include "layers/recurrent_layer.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace secateur {
namespace {

// Chunks of more tiles gain nothing: the touched part of [x; h] should stay in the first two levels of the cache.
constexpr int32_t kMostTiles = 4;

void check(const int64_t* positions, int64_t count, int64_t size) {
  int64_t last = -1;
  for (int64_t k = 0; k < count; ++k) {
    if (positions[k] <= last || positions[k] >= size)
      throw std::invalid_argument("weight positions must be ascending and lie inside the layer, got " +
                                  std::to_string(positions[k]) + " at index " + std::to_string(k));
    last = positions[k];
  }
}

}  // namespace

Tables tables() { return {SECATEUR_TABLE(sparse_kernels), SECATEUR_TABLE(recurrent_kernels)}; }

Chunk Chunk::of(int32_t tiles, int index, int count) {
  const Range range = share(tiles, index, count);
  return {int32_t(range.begin), int32_t(range.end - range.begin)};
}

int Chunk::count_for(int32_t tiles, int threads) {
  const int team = std::clamp<int>(threads, 1, tiles);
  const int rounds = (tiles + team * kMostTiles - 1) / (team * kMostTiles);
  return std::min<int>(tiles, team * rounds);
}

Packer::Packer(int32_t features, const std::vector<bool>& alive) : features_(features) {
  for (int32_t first = 0; first < features; first += 16) {
    PackGroup group{first, std::min(16, features - first), {}};
    bool wanted = false;
    for (int32_t j = 0; j < 16; ++j) {
      const bool take = j < group.count && (alive.empty() || alive[size_t(first + j)]);
      group.target[j] = take ? first + j : -1;
      wanted = wanted || take;
    }
    if (wanted) groups_.push_back(group);
  }
}

void Packer::pack(const Tables& t, const float* x, int64_t stride, int64_t samples, Chunk chunk, float* rows) const {
  t.linear.pack(x, stride, samples, groups_.data(), 0, int64_t(groups_.size()), chunk.tile0,
                chunk.tile0 + chunk.tiles, rows - int64_t(chunk.tile0) * kTileSamples, chunk.width());
}

void Packer::unpack(const Tables& t, const float* rows, int64_t samples, Chunk chunk, float* x, int64_t stride) const {
  t.linear.unpack(rows - int64_t(chunk.tile0) * kTileSamples, chunk.width(), features_, samples, chunk.tile0,
                  chunk.tile0 + chunk.tiles, x, stride);
}

RecurrentLayer::RecurrentLayer(bool gru, int64_t inputs, int64_t units, const int64_t* ih, int64_t ih_count,
                               const int64_t* hh, int64_t hh_count)
    : gru_(gru), inputs_(int32_t(inputs)), units_(int32_t(units)), input_packer_(0), state_packer_(0) {
  if (inputs < 1 || units < 1 || inputs + units >= (int64_t(1) << 26))
    throw std::invalid_argument("a recurrent layer needs inputs and units, got " + std::to_string(inputs) + " and " +
                                std::to_string(units));
  const int64_t rows = gates() * units;
  check(ih, ih_count, rows * inputs);
  check(hh, hh_count, rows * units);
  if (ih_count + hh_count >= INT32_MAX - 64) throw std::invalid_argument("too many weights for 32-bit indices");
  add_entries(ih, ih_count, false);
  add_entries(hh, hh_count, true);
  finish(ih_count);
}

void RecurrentLayer::add_entries(const int64_t* positions, int64_t count, bool of_state) {
  const int64_t columns = of_state ? units_ : inputs_;
  for (int64_t k = 0; k < count; ++k) {
    const int32_t gate = int32_t(positions[k] / columns / units_), unit = int32_t(positions[k] / columns % units_);
    row_.push_back(kSlots * unit + (gru_ && of_state && gate == 2 ? 3 : gate));
    columns_.push_back(int32_t(positions[k] % columns) + (of_state ? inputs_ : 0));
  }
}

// Sorts the entries by row and column, and builds the transpose.
void RecurrentLayer::finish(int64_t ih_count) {
  std::vector<int32_t> order(columns_.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [this](int32_t a, int32_t b) {
    return row_[a] != row_[b] ? row_[a] < row_[b] : columns_[a] < columns_[b];
  });
  std::vector<int32_t> row(order.size()), columns(order.size()), places(order.size());
  starts_.assign(size_t(kSlots) * units_ + 1, 0);
  back_starts_.assign(size_t(inputs_) + units_ + 1, 0);
  for (size_t k = 0; k < order.size(); ++k) {
    row[k] = row_[order[k]];
    columns[k] = columns_[order[k]];
    places[order[k]] = int32_t(k);
    ++starts_[row[k] + 1];
    ++back_starts_[columns[k] + 1];
  }
  row_ = row;
  columns_ = columns;
  input_places_.assign(places.begin(), places.begin() + ih_count);
  state_places_.assign(places.begin() + ih_count, places.end());
  std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
  std::vector<bool> alive(size_t(inputs_), false);
  for (int32_t c = 0; c < inputs_; ++c) alive[size_t(c)] = back_starts_[c + 1] > 0;
  input_packer_ = Packer(inputs_, alive);
  state_packer_ = Packer(units_);
  std::partial_sum(back_starts_.begin(), back_starts_.end(), back_starts_.begin());
  back_rows_.resize(order.size());
  order_.resize(order.size());
  std::vector<int32_t> next(back_starts_.begin(), back_starts_.end() - 1);
  for (size_t k = 0; k < order.size(); ++k) {
    const int32_t at = next[columns_[k]]++;
    back_rows_[at] = row_[k];
    order_[at] = int32_t(k);
  }
}

int32_t RecurrentLayer::bias_place(bool of_state, int32_t gate_row) const {
  const int32_t gate = gate_row / units_, unit = gate_row % units_;
  return int32_t(first_bias()) + kSlots * unit + (gru_ && of_state && gate == 2 ? 3 : gate);
}

void RecurrentLayer::transpose(const Tables& t, const float* numbers, Range range, float* back) const {
  t.linear.gather(numbers, order_.data(), range.begin, range.end, back);
}

// ------------------------------------------------------------------ memory
int64_t RecurrentLayer::rows(int64_t steps, bool keep) const {
  const int64_t inputs = (keep ? steps + 1 : 2) * (int64_t(inputs_) + units_);
  const int64_t slots = (keep ? steps : 1) * kSlots * int64_t(units_);
  const int64_t states = gru_ ? 0 : (keep ? 2 * steps + 1 : 2) * int64_t(units_);
  return inputs + slots + states;
}

RecurrentLayer::Trace RecurrentLayer::trace(float* buffer, Chunk chunk, int64_t steps, bool keep) const {
  const int64_t width = chunk.width();
  Trace t{};
  t.width = int32_t(width);
  t.steps = int32_t(steps);
  t.input_stride = (int64_t(inputs_) + units_) * width;
  t.slot_stride = keep ? kSlots * int64_t(units_) * width : 0;
  t.state_stride = t.squashed_stride = keep && !gru_ ? int64_t(units_) * width : 0;
  t.input = buffer + rows(steps, keep) * chunk.tile0 * kTileSamples;
  t.slots = t.input + (keep ? steps + 1 : 2) * t.input_stride;
  t.state = t.slots + (keep ? steps : 1) * kSlots * int64_t(units_) * width;
  t.squashed = t.state + (keep ? steps + 1 : 1) * int64_t(units_) * width;
  return t;
}

float* RecurrentLayer::h(const Trace& trace, int64_t step, bool keep) const {
  return trace.x(keep ? step : step & 1) + int64_t(inputs_) * trace.width;
}

// ------------------------------------------------------------------ through time
CellProduct RecurrentLayer::product(const float* numbers, const float* back) const {
  return {inputs_, units_, starts_.data(), columns_.data(), numbers, numbers ? numbers + first_bias() : nullptr,
          back_starts_.data(), back_rows_.data(), back};
}

void RecurrentLayer::forward(const Tables& t, const float* numbers, const Trace& trace, int64_t step,
                             bool keep) const {
  CellStep s{};
  s.width = trace.width;
  s.input = trace.x(keep ? step : step & 1);
  s.slots = trace.slots + step * trace.slot_stride;
  s.state = trace.state + step * trace.state_stride;
  s.next_state = trace.state + (step + 1) * trace.state_stride;
  s.squashed = trace.squashed + step * trace.squashed_stride;
  s.h = h(trace, step + 1, keep);
  (gru_ ? t.recurrent.gru_forward : t.recurrent.lstm_forward)(product(numbers, nullptr), s);
}

RecurrentLayer::Ring RecurrentLayer::ring(float* buffer, int32_t width) const {
  return {buffer, kSlots * int64_t(units_) * width, 2 * steps_at_once(width)};
}

void RecurrentLayer::backward(const Tables& t, const float* back, const Trace& trace, const Ring& ring, int64_t step,
                              const float* dy, const float* dlast, float* carry) const {
  const bool last = step + 1 == trace.steps;
  CellStep s{};
  s.width = trace.width;
  s.input = trace.x(step);
  s.slots = trace.slots + step * trace.slot_stride;
  s.gradients = ring(step);
  s.later = last ? nullptr : ring(step + 1);
  s.state = trace.state + step * trace.state_stride;
  s.squashed = trace.squashed + step * trace.squashed_stride;
  s.dy = dy;
  s.dlast = last ? dlast : nullptr;
  s.carry = carry;
  (gru_ ? t.recurrent.gru_backward : t.recurrent.lstm_backward)(product(nullptr, back), s);
}

Product RecurrentLayer::transposed_product(const float* back, int32_t row, int32_t rows, const float* x, float* y,
                                           int32_t width) const {
  return {rows, 1, back_starts_.data() + row, back_rows_.data(), back, x, width, y, width, nullptr, nullptr, false, 4};
}

void RecurrentLayer::input_gradient(const Tables& t, const float* back, const Ring& ring, int64_t step, int32_t width,
                                    float* dx) const {
  t.linear.multiply(transposed_product(back, 0, inputs_, ring(step), dx, width), 0, inputs_, 0, width / kTileSamples);
}

void RecurrentLayer::first_state_gradient(const Tables& t, const float* back, const Ring& ring, int32_t width,
                                          const float* carry, float* dh) const {
  t.linear.multiply(transposed_product(back, inputs_, units_, ring(0), dh, width), 0, units_, 0,
                    width / kTileSamples);
  if (gru_) t.recurrent.add(int64_t(units_) * width, carry, dh);
}

int64_t RecurrentLayer::steps_at_once(int32_t width) { return std::max<int64_t>(1, 16 * kTileSamples / width); }

void RecurrentLayer::add_gradients(const Tables& t, const Trace& trace, const Ring& ring, int64_t begin, int64_t end,
                                   bool biases, float* numbers) const {
  const StepsProduct p{row_.data(), columns_.data(), ring(begin), ring.stride, trace.x(begin), trace.input_stride,
                       int32_t(end - begin), trace.width};
  t.recurrent.weight_gradient(p, 0, count(), numbers);
  if (biases) t.recurrent.bias_gradient(p, 0, kSlots * units_, numbers + first_bias());
}

}  // namespace secateur
