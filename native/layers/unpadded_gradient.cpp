#include "layers/unpadded_gradient.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace secateur {
namespace {

// Below this share of places that are not zeros, skipping the others pays for adding up column by column.
constexpr double kWorthwhile = 0.75;
// What the outputs of one chunk may touch, so that most of it is found in the first-level cache again.
constexpr int64_t kChunkBytes = 64 * 1024;
// Weights of one input, column and chunk: with fewer, fetching and storing the sums would cost too much.
constexpr int64_t kTapsOfRun = 8;

// Positions of the input whose gradient takes from the output at a distance of `shift`.
int32_t reached(int32_t size, int32_t out_size, int32_t shift) {
  return std::max(0, std::min(size, out_size - shift) - std::max(0, -shift));
}

}  // namespace

bool UnpaddedGradient::worthwhile(const Sizes& s, const std::vector<Tap>& taps) {
  int64_t used = 0;
  for (const Tap& t : taps) used += int64_t(reached(s.height, s.out_height, t.y)) * reached(s.width, s.out_width, t.x);
  return double(used) < kWorthwhile * double(taps.size()) * s.height * s.width;
}

UnpaddedGradient::UnpaddedGradient(const Sizes& sizes, std::vector<Tap> taps) : sizes_(sizes) {
  for (const Tap& t : taps) {
    if (reached(sizes.height, sizes.out_height, t.y) && reached(sizes.width, sizes.out_width, t.x)) taps_.push_back(t);
  }
  std::vector<int32_t> columns;
  int32_t last_band = 0;
  for (size_t k = 0; k < taps_.size(); ++k) {
    columns.push_back(taps_[k].x);
    first_band_ = k ? std::min(first_band_, taps_[k].y) : taps_[k].y;
    last_band = k ? std::max(last_band, taps_[k].y) : taps_[k].y;
  }
  bands_ = last_band - first_band_ + 1;
  std::sort(columns.begin(), columns.end());
  columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
  for (int32_t x : columns) shifts_.push_back({x, std::max(0, -x), reached(sizes.width, sizes.out_width, x)});
  cut();
}

// Sorts the taps, and notes where each run of them begins.
void UnpaddedGradient::cut() {
  int32_t outputs = 0;
  for (const Tap& t : taps_) outputs = std::max(outputs, t.output + 1);
  const int64_t bytes = int64_t(outputs) * (bands_ + kMostRows - 1) * sizes_.out_width * 64;
  const int64_t runs = std::max<int64_t>(1, int64_t(shifts_.size()) * sizes_.inputs);
  chunks_ = int32_t(std::clamp<int64_t>((bytes + kChunkBytes - 1) / kChunkBytes, 1,
                                        std::max<int64_t>(1, int64_t(taps_.size()) / runs / kTapsOfRun)));
  const auto chunk_of = [&](const Tap& t) { return int32_t(int64_t(t.output) * chunks_ / std::max(outputs, 1)); };
  const auto key = [&](const Tap& t) { return std::make_tuple(chunk_of(t), t.x, t.input, t.y, t.output); };
  std::sort(taps_.begin(), taps_.end(), [&](const Tap& a, const Tap& b) { return key(a) < key(b); });
  cuts_.clear();
  size_t k = 0;
  for (int32_t chunk = 0; chunk < chunks_; ++chunk) {
    for (const Shift& shift : shifts_) {
      const size_t base = cuts_.size();
      cuts_.resize(base + size_t(bands_ + 1) * size_t(sizes_.inputs));
      for (int32_t input = 0; input < sizes_.inputs; ++input) {
        for (int32_t band = 0; band <= bands_; ++band) {
          const auto earlier = std::make_tuple(chunk, shift.x, input, first_band_ + band, -1);
          while (k < taps_.size() && key(taps_[k]) < earlier) ++k;
          cuts_[base + size_t(band) * size_t(sizes_.inputs) + size_t(input)] = int32_t(k);
        }
      }
    }
  }
}

const int32_t* UnpaddedGradient::cuts_of(int32_t chunk, size_t shift, int32_t band) const {
  return cuts_.data() + ((size_t(chunk) * shifts_.size() + shift) * size_t(bands_ + 1) + size_t(band)) *
                            size_t(sizes_.inputs);
}

void UnpaddedGradient::place(int64_t dy_channel, int64_t dy_row) {
  offsets_.clear();
  for (const Tap& t : taps_) offsets_.push_back(int32_t(t.output * dy_channel + t.y * dy_row + t.x * 16));
}

void UnpaddedGradient::arrange(const float* values, int index, int parts, float* out) const {
  const Range own = share(int64_t(taps_.size()), index, parts, 16);
  for (int64_t k = own.begin; k < own.end; ++k) out[k] = values[taps_[size_t(k)].order];
}

void UnpaddedGradient::run(const ConvKernels& kernels, const float* values, const Planes& dy, const Planes& dx,
                           bool add, int32_t tiles, int index, int parts) const {
  const int32_t down = (sizes_.height + kMostRows - 1) / kMostRows;
  const Range mine = share(int64_t(tiles) * down, index, parts);
  for (int64_t place = mine.begin; place < mine.end; ++place) {
    const int32_t tile = int32_t(place / down), row = int32_t(place % down) * kMostRows;
    const int32_t rows = std::min(kMostRows, sizes_.height - row);
    Planes from = dy, to = dx;
    from.at += tile * dy.tile + row * dy.row;
    to.at += tile * dx.tile + row * dx.row;
    if (!add) clear(to, rows);
    run_rows(kernels, values, from, to, add, row, rows);
  }
}

// Zeros in the columns that the first shift does not write.
void UnpaddedGradient::clear(const Planes& dx, int32_t rows) const {
  const int32_t begin = shifts_.empty() ? 0 : shifts_[0].first;
  const int32_t end = shifts_.empty() ? 0 : begin + shifts_[0].count;
  for (int32_t c = 0; c < sizes_.inputs; ++c) {
    for (int32_t r = 0; r < rows; ++r) {
      float* at = dx.at + c * dx.channel + r * dx.row;
      std::memset(at, 0, size_t(begin) * 64);
      std::memset(at + end * 16, 0, size_t(sizes_.width - end) * 64);
    }
  }
}

// Rows row … row + rows; `dy` and `dx` begin at the first of them.
void UnpaddedGradient::run_rows(const ConvKernels& kernels, const float* values, const Planes& dy, const Planes& dx,
                                bool add, int32_t row, int32_t rows) const {
  // The bands that lead from one of these rows to one of the output.
  const int32_t first = std::clamp(-(row + rows - 1) - first_band_, 0, bands_);
  const int32_t last = std::clamp(sizes_.out_height - row - first_band_, first, bands_);
  const int32_t most = std::min(24, kernels.accumulators / rows);
  ConvPass pass{};
  pass.offsets = offsets_.data(), pass.values = values;
  pass.y_row = dx.channel, pass.y_step = 16;
  for (int32_t r = 0; r < rows; ++r) pass.x_group[r] = r * dy.row, pass.y_group[r] = r * dx.row;
  for (int32_t chunk = 0; chunk < chunks_; ++chunk) {
    for (size_t s = 0; s < shifts_.size(); ++s) {
      pass.starts = cuts_of(chunk, s, first), pass.ends = cuts_of(chunk, s, last);
      pass.add = add || chunk > 0 || s > 0;
      const int32_t count = shifts_[s].count, pieces = (count + most - 1) / most;
      for (int32_t piece = 0; piece < pieces; ++piece) {
        const int32_t begin = count * piece / pieces, end = count * (piece + 1) / pieces;
        pass.x = dy.at + (shifts_[s].first + begin) * 16;
        pass.y = dx.at + (shifts_[s].first + begin) * 16;
        kernels.convolve(pass, 0, sizes_.inputs, rows, end - begin, 1);
      }
    }
  }
}

}  // namespace secateur
