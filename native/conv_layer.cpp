#include "conv_layer.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace secateur {
namespace {

// Inputs and gradients that one sweep over the weights of a layer may touch in the second-level cache.
constexpr int64_t kCacheBytes = 500 * 1024;
constexpr int kMostAccumulators = 16;

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

int32_t modulo(int32_t a, int32_t b) { return ((a % b) + b) % b; }
int32_t parts_of(int32_t count, int32_t limit) { return (count + limit - 1) / limit; }

// How many positions, rows and tiles are computed together: as many as there are registers for, in even parts.
struct Grouping {
  int32_t positions, rows, tiles;

  static Grouping of(int32_t height, int32_t width, int32_t tiles, int32_t limit) {
    Grouping best{1, 1, 1};
    int64_t best_cost = INT64_MAX;
    for (int32_t p = 1; p <= std::min(width, limit); ++p) {
      if (p != (width + parts_of(width, p) - 1) / parts_of(width, p)) continue;  // an uneven cut
      for (int32_t r = 1; r <= std::min(height, kMostGroups) && r * p <= limit; ++r) {
        // Tiles together only pay where a sample has next to no positions.
        const int32_t t = r * p <= 2 ? std::min({tiles, kMostGroups / r, limit / (r * p)}) : 1;
        const int64_t passes = int64_t(parts_of(width, p)) * parts_of(height, r) * parts_of(tiles, t);
        // Each weight costs its multiply-adds, and a little for itself; wide groups touch more of the cache.
        const int64_t cost = passes * (p * r * t * 8 + 20) + (p + 2) * (r + 2) / 4;
        if (cost < best_cost) best = {p, r, t}, best_cost = cost;
      }
    }
    return best;
  }
};

}  // namespace

void Halo::cover(const Halo& other) {
  top = std::max(top, other.top);
  left = std::max(left, other.left);
  bottom = std::max(bottom, other.bottom);
  right = std::max(right, other.right);
}

ConvLayer::ConvLayer(const ConvShape& shape, const int64_t* positions, int64_t count) : shape_(shape) {
  check(positions, count);
  const int32_t area = shape.kernel_height * shape.kernel_width, depth = shape.inputs / shape.groups;
  const int32_t outputs_per_group = shape.outputs / shape.groups;
  used_inputs_.assign(size_t(shape.inputs), 0);
  starts_.assign(size_t(shape.outputs) + 1, 0);
  for (int64_t k = 0; k < count; ++k) {
    const int32_t inside = int32_t(positions[k] % (int64_t(depth) * area));
    const int32_t output = int32_t(positions[k] / (int64_t(depth) * area));
    const int32_t input = output / outputs_per_group * depth + inside / area;
    tap_.push_back({output, input, inside % area / shape.kernel_width, inside % shape.kernel_width});
    used_inputs_[size_t(input)] = 1;
    ++starts_[size_t(output) + 1];
  }
  for (int32_t o = 0; o < shape.outputs; ++o) starts_[size_t(o) + 1] += starts_[size_t(o)];
  offsets_.resize(size_t(count));
  forward_.height = shape.out_height(), forward_.width = shape.out_width();
  forward_.first_y = forward_.first_x = 0;
  forward_.starts = starts_;
  for (int32_t ry = 0; ry < std::min(shape.stride_y, shape.height); ++ry)
    for (int32_t rx = 0; rx < std::min(shape.stride_x, shape.width); ++rx) add_phase(ry, rx);
}

void ConvLayer::check(const int64_t* positions, int64_t count) {
  const ConvShape& s = shape_;
  for (int32_t value : {s.inputs, s.outputs, s.groups, s.height, s.width, s.kernel_height, s.kernel_width, s.stride_y,
                        s.stride_x, s.dilation_y, s.dilation_x})
    require(value >= 1, "the sizes of a convolution must be at least 1, got " + std::to_string(value));
  require(s.pad_y >= 0 && s.pad_x >= 0, "the padding of a convolution must not be negative");
  require(s.inputs % s.groups == 0 && s.outputs % s.groups == 0, "the groups must divide both numbers of channels");
  require(s.height + 2 * s.pad_y > s.dilation_y * (s.kernel_height - 1) &&
              s.width + 2 * s.pad_x > s.dilation_x * (s.kernel_width - 1),
          "the kernel of a convolution must not be larger than its padded input");
  const int64_t total = int64_t(s.outputs) * (s.inputs / s.groups) * s.kernel_height * s.kernel_width;
  require(count >= 0 && count < INT32_MAX && int64_t(s.inputs) * (s.height + 2 * s.pad_y + 2) *
                                                     (s.width + 2 * s.pad_x + 2) * 16 < INT32_MAX,
          "a convolution's offsets must fit 31 bits: fewer channels, or smaller images");
  for (int64_t k = 0, last = -1; k < count; last = positions[k++])
    require(positions[k] > last && positions[k] < total,
            "weight positions must be ascending and inside the layer, got " + std::to_string(positions[k]));
}

// The gradient at input position y collects the outputs (y + pad − kernel row · dilation) / stride, where that
// division leaves no remainder: which weights those are depends on y modulo the stride alone.
void ConvLayer::add_phase(int32_t ry, int32_t rx) {
  const ConvShape& s = shape_;
  Phase phase;
  phase.first_y = ry, phase.first_x = rx;
  phase.height = (s.height - ry + s.stride_y - 1) / s.stride_y;
  phase.width = (s.width - rx + s.stride_x - 1) / s.stride_x;
  const auto reach_y = [&](const Tap& t) { return ry + s.pad_y - t.y * s.dilation_y; };
  const auto reach_x = [&](const Tap& t) { return rx + s.pad_x - t.x * s.dilation_x; };
  const auto mine = [&](const Tap& t) {
    return modulo(reach_y(t), s.stride_y) == 0 && modulo(reach_x(t), s.stride_x) == 0;
  };
  phase.starts.assign(size_t(s.inputs) + 1, 0);
  for (const Tap& t : tap_) phase.starts[size_t(t.input) + 1] += mine(t);
  for (int32_t c = 0; c < s.inputs; ++c) phase.starts[size_t(c) + 1] += phase.starts[size_t(c)];
  const size_t count = size_t(phase.starts.back());
  phase.order.resize(count), phase.offsets.resize(count), phase.taps_y.resize(count), phase.taps_x.resize(count);
  std::vector<int32_t> next(phase.starts.begin(), phase.starts.end() - 1);
  for (size_t k = 0; k < tap_.size(); ++k) {
    if (!mine(tap_[k])) continue;
    const size_t at = size_t(next[size_t(tap_[k].input)]++);
    phase.order[at] = int32_t(k);
    phase.taps_y[at] = reach_y(tap_[k]) / s.stride_y;
    phase.taps_x[at] = reach_x(tap_[k]) / s.stride_x;
  }
  phases_.push_back(std::move(phase));
}

Halo ConvLayer::input_halo() const {
  const ConvShape& s = shape_;
  const int32_t below = (s.out_height() - 1) * s.stride_y + (s.kernel_height - 1) * s.dilation_y - s.pad_y;
  const int32_t right = (s.out_width() - 1) * s.stride_x + (s.kernel_width - 1) * s.dilation_x - s.pad_x;
  return {s.pad_y, s.pad_x, std::max(0, below - s.height + 1), std::max(0, right - s.width + 1)};
}

Halo ConvLayer::gradient_halo() const {
  Halo halo;
  for (const Phase& phase : phases_) {
    for (size_t k = 0; k < phase.order.size(); ++k)
      halo.cover({-phase.taps_y[k], -phase.taps_x[k], phase.taps_y[k] + phase.height - shape_.out_height(),
                  phase.taps_x[k] + phase.width - shape_.out_width()});
  }
  return halo;
}

void ConvLayer::place(int64_t x_channel, int64_t x_row, int64_t dy_channel, int64_t dy_row) {
  const ConvShape& s = shape_;
  for (size_t k = 0; k < tap_.size(); ++k) {
    const Tap& t = tap_[k];
    offsets_[k] = int32_t(t.input * x_channel + (t.y * s.dilation_y - s.pad_y) * x_row +
                          (t.x * s.dilation_x - s.pad_x) * 16);
  }
  forward_.offsets = offsets_;
  for (Phase& phase : phases_) {
    for (size_t k = 0; k < phase.order.size(); ++k)
      phase.offsets[k] = int32_t(tap_[size_t(phase.order[k])].output * dy_channel + phase.taps_y[k] * dy_row +
                                 phase.taps_x[k] * 16);
  }
}

void ConvLayer::transpose_values(const float* values, Range entries, float* out) const {
  int64_t first = 0;
  for (const Phase& phase : phases_) {
    const int64_t count = int64_t(phase.order.size());
    const int64_t end = std::min(entries.end - first, count);
    for (int64_t k = std::max<int64_t>(0, entries.begin - first); k < end; ++k)
      out[first + k] = values[phase.order[size_t(k)]];
    first += count;
  }
}

void ConvLayer::forward(const ConvKernels& kernels, const float* values, const float* bias, bool relu,
                        const Planes& x, const Planes& y, int32_t tiles, int index, int parts) const {
  run(kernels, forward_, values, bias, relu, false, x, y, shape_.stride_y * x.row, shape_.stride_x, y.row, y.step,
      tiles, index, parts);
}

void ConvLayer::backward(const ConvKernels& kernels, const float* transposed, const Planes& dy, const Planes& dx,
                         bool add, int32_t tiles, int index, int parts) const {
  for (const Phase& phase : phases_) {
    Planes target = dx;
    target.at += phase.first_y * dx.row + phase.first_x * dx.step;
    run(kernels, phase, transposed, nullptr, false, add, dy, target, dy.row, 1, shape_.stride_y * dx.row,
        shape_.stride_x * dx.step, tiles, index, parts);
    transposed += phase.order.size();
  }
}

void ConvLayer::run(const ConvKernels& kernels, const Phase& phase, const float* values, const float* bias, bool relu,
                    bool add, const Planes& x, const Planes& y, int64_t x_step_y, int64_t x_step_x,
                    int64_t y_step_y, int64_t y_step_x, int32_t tiles, int index, int parts) const {
  const int32_t limit = std::min(kernels.accumulators, kMostAccumulators);
  const Grouping group = Grouping::of(phase.height, phase.width, tiles, limit);
  const int32_t across = parts_of(phase.width, group.positions), down = parts_of(phase.height, group.rows);
  const int32_t deep = parts_of(tiles, group.tiles);
  const int64_t places = int64_t(deep) * down * across;
  const int32_t rows = int32_t(phase.starts.size()) - 1;
  // Few places: threads share the channels instead.
  const bool by_rows = places < 4 * parts && places % parts != 0;
  const Range mine = by_rows ? Range{0, places} : share(places, index, parts);
  const Range channels = by_rows ? share(rows, index, parts) : Range{0, rows};
  ConvPass pass{phase.starts.data(), phase.offsets.data(), values, nullptr, nullptr, y.channel, y_step_x,
                {}, {}, bias, add, relu};
  for (int64_t place = mine.begin; place < mine.end; ++place) {
    const int32_t t0 = int32_t(place / (int64_t(down) * across)) * group.tiles;
    const int32_t y0 = int32_t(place / across % down) * group.rows;
    const int32_t x0 = int32_t(place % across) * group.positions;
    const int32_t t1 = std::min(tiles, t0 + group.tiles), y1 = std::min(phase.height, y0 + group.rows);
    int groups = 0;
    for (int32_t t = t0; t < t1; ++t)
      for (int32_t r = y0; r < y1; ++r, ++groups) {
        pass.x_group[groups] = (t - t0) * x.tile + (r - y0) * x_step_y;
        pass.y_group[groups] = (t - t0) * y.tile + (r - y0) * y_step_y;
      }
    pass.x = x.at + t0 * x.tile + y0 * x_step_y + x0 * x_step_x * 16;
    pass.y = y.at + t0 * y.tile + y0 * y_step_y + x0 * y_step_x;
    kernels.convolve(pass, int32_t(channels.begin), int32_t(channels.end), groups,
                     std::min(group.positions, phase.width - x0), x_step_x);
  }
}

Range ConvLayer::channels(int index, int parts) const {
  const auto edge = [&](int i) -> int64_t {
    if (i >= parts) return shape_.outputs;
    const int64_t target = count() * i / parts;
    return std::lower_bound(starts_.begin(), starts_.end() - 1, int32_t(target)) - starts_.begin();
  };
  return {edge(index), edge(index + 1)};
}

void ConvLayer::gradient(const ConvKernels& kernels, const Planes& x, const Planes& dy, int32_t tiles,
                         Range channels, float* out) const {
  const ConvShape& s = shape_;
  const int32_t height = s.out_height(), width = s.out_width();
  const Range mine = entries(channels);
  std::fill(out, out + (mine.end - mine.begin), 0.0f);
  // As many rows at a time as keep their inputs in the second-level cache.
  const int64_t row_bytes = int64_t(s.inputs) * s.stride_y * s.width * 64;
  const int32_t rows = int32_t(std::clamp<int64_t>(kCacheBytes / row_bytes, 1, height));
  // Images of a few positions are summed over several tiles before the lanes are.
  const int32_t together = height * width <= 4 ? std::min(tiles, 4) : 1;
  for (int32_t t = 0; t < tiles; t += together) {
    for (int32_t y0 = 0; y0 < height; y0 += rows) {
      ConvGradient piece{offsets_.data(), x.at + t * x.tile + y0 * s.stride_y * x.row, nullptr,
                         std::min(together, tiles - t), std::min(rows, height - y0), width, x.tile,
                         s.stride_y * x.row, s.stride_x * 16, dy.tile, dy.row};
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        const int64_t k0 = starts_[size_t(c)], k1 = starts_[size_t(c) + 1];
        if (k0 == k1) continue;
        piece.dy = dy.at + t * dy.tile + c * dy.channel + y0 * dy.row;
        kernels.gradient(piece, k0, k1, out + (k0 - mine.begin));
      }
    }
  }
}

}  // namespace secateur
