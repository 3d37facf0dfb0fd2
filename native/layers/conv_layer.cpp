#include "layers/conv_layer.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace secateur {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

int32_t modulo(int32_t a, int32_t b) { return ((a % b) + b) % b; }

}  // namespace

void Halo::cover(const Halo& other) {
  top = std::max(top, other.top);
  left = std::max(left, other.left);
  bottom = std::max(bottom, other.bottom);
  right = std::max(right, other.right);
}

void check_convolution(const ConvShape& s, const int64_t* positions, int64_t count) {
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

ConvLayer::ConvLayer(const ConvShape& shape, const int64_t* positions, int64_t count) : shape_(shape) {
  check_convolution(shape, positions, count);
  if (Winograd::suits(shape, count)) winograd_ = std::make_unique<Winograd>(shape, positions, count);
  const int32_t area = shape.kernel_height * shape.kernel_width, depth = shape.inputs / shape.groups;
  const int32_t outputs_per_group = shape.outputs / shape.groups;
  forward_.starts.assign(size_t(shape.outputs) + 1, 0);
  for (int64_t k = 0; k < count; ++k) {
    const int32_t inside = int32_t(positions[k] % (int64_t(depth) * area));
    const int32_t output = int32_t(positions[k] / (int64_t(depth) * area));
    const int32_t input = output / outputs_per_group * depth + inside / area;
    tap_.push_back({output, input, inside % area / shape.kernel_width, inside % shape.kernel_width});
    forward_.order.push_back(int32_t(k));
    forward_.channels.push_back(input);
    ++forward_.starts[size_t(output) + 1];
  }
  for (int32_t o = 0; o < shape.outputs; ++o) forward_.starts[size_t(o) + 1] += forward_.starts[size_t(o)];
  forward_.offsets.resize(size_t(count));
  if (!winograd_) plan_backward();
}

void ConvLayer::plan_backward() {
  const ConvShape& s = shape_;
  if (s.stride_y == 1 && s.stride_x == 1) {
    std::vector<UnpaddedGradient::Tap> turned;
    for (const Tap& t : tap_)
      turned.push_back({t.output, t.input, s.pad_y - t.y * s.dilation_y, s.pad_x - t.x * s.dilation_x,
                        int32_t(turned.size())});
    const UnpaddedGradient::Sizes sizes{s.inputs, s.height, s.width, s.out_height(), s.out_width()};
    if (UnpaddedGradient::worthwhile(sizes, turned)) {
      unpadded_.emplace(sizes, std::move(turned));
      return;
    }
  }
  for (int32_t ry = 0; ry < std::min(s.stride_y, s.height); ++ry)
    for (int32_t rx = 0; rx < std::min(s.stride_x, s.width); ++rx) add_phase(ry, rx);
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
  std::vector<int32_t>& starts = phase.rows.starts;
  starts.assign(size_t(s.inputs) + 1, 0);
  for (const Tap& t : tap_) starts[size_t(t.input) + 1] += mine(t);
  for (int32_t c = 0; c < s.inputs; ++c) starts[size_t(c) + 1] += starts[size_t(c)];
  const size_t count = size_t(starts.back());
  phase.rows.order.resize(count), phase.rows.offsets.resize(count), phase.rows.channels.resize(count);
  phase.taps_y.resize(count), phase.taps_x.resize(count);
  std::vector<int32_t> next(starts.begin(), starts.end() - 1);
  for (size_t k = 0; k < tap_.size(); ++k) {
    if (!mine(tap_[k])) continue;
    const size_t at = size_t(next[size_t(tap_[k].input)]++);
    phase.rows.order[at] = int32_t(k);
    phase.rows.channels[at] = tap_[k].output;
    phase.taps_y[at] = reach_y(tap_[k]) / s.stride_y;
    phase.taps_x[at] = reach_x(tap_[k]) / s.stride_x;
  }
  phases_.push_back(std::move(phase));
}

Halo ConvLayer::input_halo() const {
  if (winograd_) return winograd_->input_halo();
  const ConvShape& s = shape_;
  const int32_t below = (s.out_height() - 1) * s.stride_y + (s.kernel_height - 1) * s.dilation_y - s.pad_y;
  const int32_t right = (s.out_width() - 1) * s.stride_x + (s.kernel_width - 1) * s.dilation_x - s.pad_x;
  return {s.pad_y, s.pad_x, std::max(0, below - s.height + 1), std::max(0, right - s.width + 1)};
}

Halo ConvLayer::gradient_halo() const {
  if (winograd_) return winograd_->gradient_halo();
  Halo halo;
  if (unpadded_) halo.top = halo.bottom = unpadded_->rows_around();
  for (const Phase& phase : phases_) {
    for (size_t k = 0; k < phase.taps_y.size(); ++k)
      halo.cover({-phase.taps_y[k], -phase.taps_x[k], phase.taps_y[k] + phase.height - shape_.out_height(),
                  phase.taps_x[k] + phase.width - shape_.out_width()});
  }
  return halo;
}

void ConvLayer::place(int64_t x_channel, int64_t x_row, int64_t dy_channel, int64_t dy_row) {
  if (sums_patches()) return;
  const ConvShape& s = shape_;
  for (size_t k = 0; k < tap_.size(); ++k) {
    const Tap& t = tap_[k];
    forward_.offsets[k] = int32_t(t.input * x_channel + (t.y * s.dilation_y - s.pad_y) * x_row +
                                  (t.x * s.dilation_x - s.pad_x) * 16);
  }
  // Four by four positions, and what the kernel reaches around them.
  const int64_t reach_y = s.dilation_y * (s.kernel_height - 1) + 1, reach_x = s.dilation_x * (s.kernel_width - 1) + 1;
  forward_.find_blocks((3 * s.stride_y + reach_y) * (3 * s.stride_x + reach_x) * 64);
  // 64 positions at least: their sums over the lanes take as long as a few dozen.
  const int32_t width = s.out_width(), rows = std::min(s.out_height(), (63 + width) / width);
  if (width * rows >= 64)
    forward_.find_slabs(((rows - 1) * s.stride_y + reach_y) * ((width - 1) * s.stride_x + reach_x) * 64, rows);
  if (unpadded_) unpadded_->place(dy_channel, dy_row);
  for (Phase& phase : phases_) {
    for (size_t k = 0; k < phase.taps_y.size(); ++k)
      phase.rows.offsets[k] = int32_t(tap_[size_t(phase.rows.order[k])].output * dy_channel +
                                      phase.taps_y[k] * dy_row + phase.taps_x[k] * 16);
    phase.rows.find_blocks((3 + reach_y / s.stride_y) * (3 + reach_x / s.stride_x) * 64);
  }
}

int64_t ConvLayer::floats() const {
  if (sums_patches()) return winograd_->floats();
  // Values, and sums with their margins.
  return 2 * forward_.floats() + 16 * int64_t(shape_.outputs) + 64 + backward_floats();
}

int64_t ConvLayer::backward_floats() const {
  int64_t total = unpadded_ ? unpadded_->floats() : winograd_ ? winograd_->floats() : 0;
  for (const Phase& phase : phases_) total += phase.rows.floats();
  return total;
}

void ConvLayer::arrange_forward(const SplitKernels* split, const float* values, int index, int parts, float* own) const {
  if (winograd_) return winograd_->arrange_forward(split, values, index, parts, own);
  forward_.arrange_blocks(values, index, parts, own);
}

void ConvLayer::arrange_backward(const SplitKernels* split, const float* values, int index, int parts, float* own) const {
  if (winograd_) return winograd_->arrange_backward(split, values, index, parts, own);
  own += forward_.floats();
  if (unpadded_) unpadded_->arrange(values, index, parts, own);
  for (const Phase& phase : phases_) {
    phase.rows.arrange(values, index, parts, own);
    own += phase.rows.floats();
  }
}

void ConvLayer::forward(const ConvKernels& kernels, const SplitKernels* split, const float* values, const float* own,
                        const float* bias, bool relu, const Planes& x, const Planes& y, int32_t tiles, int index,
                        int parts) const {
  if (winograd_) return winograd_->forward(split, own, bias, relu, x, y, tiles, index, parts);
  const ConvSweep sweep{shape_.out_height(), shape_.out_width(), tiles, shape_.stride_y * x.row, y.row, y.step,
                        shape_.stride_x};
  forward_.convolve(kernels, values, own, bias, relu, false, x, y, sweep, index, parts);
}

void ConvLayer::forward_rows(const ConvKernels& kernels, const float* values, const float* own, const float* bias,
                             bool relu, const Planes& x, int32_t tile, int32_t row, int32_t rows,
                             const Planes& y) const {
  Planes from = x;
  from.at += tile * x.tile + int64_t(row) * shape_.stride_y * x.row;
  const ConvSweep sweep{rows, shape_.out_width(), 1, shape_.stride_y * x.row, y.row, y.step, shape_.stride_x};
  forward_.convolve(kernels, values, own, bias, relu, false, from, y, sweep, 0, 1);
}

void ConvLayer::backward(const ConvKernels& kernels, const SplitKernels* split, const float* own, const Planes& dy,
                         const Planes& dx, bool add, int32_t tiles, int index, int parts) const {
  if (winograd_) return winograd_->backward(split, own, dy, dx, add, tiles, index, parts);
  own += forward_.floats();
  if (unpadded_) unpadded_->run(kernels, own, dy, dx, add, tiles, index, parts);
  // With strides each phase reads the same dy: they take turns, a group of positions at a time, so that it is in the
  // cache.
  const bool turns = phases_.size() > 1 && int64_t(shape_.outputs) * shape_.out_height() * shape_.out_width() > 8192;
  const int64_t groups = turns ? ConvRows::groups_of({phases_[0].height, phases_[0].width, tiles, 0, 0, 0, 1},
                                                     kernels.accumulators)
                               : parts;
  const Range mine = turns ? share(groups, index, parts) : Range{index, index + 1};
  for (int64_t group = mine.begin; group < mine.end; ++group) {
    const float* values = own;
    for (const Phase& phase : phases_) {
      Planes target = dx;
      target.at += phase.first_y * dx.row + phase.first_x * dx.step;
      const ConvSweep sweep{phase.height, phase.width, tiles, dy.row, shape_.stride_y * dx.row,
                            shape_.stride_x * dx.step, 1};
      phase.rows.convolve(kernels, values, values + phase.rows.order.size(), nullptr, false, add, dy, target, sweep,
                          int(group), int(groups));
      values += phase.rows.floats();
    }
  }
}

void ConvLayer::gradient(const ConvKernels& kernels, const SplitKernels* split, float* own, const Planes& x,
                         const Planes& dy, int32_t tiles, Barrier& barrier, int index, int parts, float* out,
                         const MadeChannels* made) const {
  if (sums_patches()) return winograd_->gradient(split, own, x, dy, tiles, barrier, index, parts, out);
  const ConvShape& s = shape_;
  const ConvSweep sweep{s.out_height(), s.out_width(), tiles, s.stride_y * x.row, dy.row, 16, s.stride_x};
  own += forward_.floats() + backward_floats();
  const int64_t row_bytes = int64_t(s.inputs) * s.stride_y * s.width * 64;
  // Images of a few positions are summed over several tiles before the lanes are.
  const int32_t together = !made && sweep.height * sweep.width <= 4 ? std::min(tiles, 4) : 1;
  forward_.gradient(kernels, x, dy, sweep, row_bytes, together, made, index, parts, own, out);
}

}  // namespace secateur
