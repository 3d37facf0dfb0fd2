#include "layers/winograd.h"

#include <algorithm>

#include "base/caches.h"
#include "base/room.h"
#include "layers/conv_layer.h"

namespace secateur {
namespace {

// What the transformed inputs and outputs of one go may take: more than the second-level cache, for their points are
// read one after the other.
int64_t transformed_bytes() { return second_level_bytes() * 8 / 5; }
constexpr int64_t kSumBytes = 1600 * 1024;
// Measured, in multiply-adds of a dense product of matrices: what a kept weight takes on its own, at each place; what
// the transforms of a channel take at each point and unit; and those of a weight at each point, for two tiles.
constexpr double kCostOfKept = 2.0;
constexpr int64_t kCostOfTransform = 10, kCostOfWeight = 2;

int32_t patches(int32_t size) { return (size + kPatch - 1) / kPatch; }

// Room of this thread for transformed values; all layers use the same, so that it stays in the cache.
float* room(int64_t count) { return scratch(Scratch::winograd, count); }

// So far apart that the points of a unit do not fall into the same set of a cache.
int64_t apart(int64_t floats) { return floats + (floats / 16 % 2 ? 0 : 16); }

WinogradPlane plane_of(const Planes& p, int64_t channel, int64_t offset, int32_t height, int32_t width) {
  return {p.at + channel * p.channel + offset, p.tile, p.row, p.channel, patches(height), patches(width), height, width};
}

// Sorts entries by key: starts[key] … starts[key + 1] of `order`.
template <class Key>
void sort_by(int64_t count, int64_t keys, Key key, std::vector<int32_t>* starts, std::vector<int32_t>* order) {
  starts->assign(size_t(keys) + 1, 0);
  for (int64_t k = 0; k < count; ++k) ++(*starts)[size_t(key(k)) + 1];
  for (int64_t i = 0; i < keys; ++i) (*starts)[size_t(i) + 1] += (*starts)[size_t(i)];
  std::vector<int32_t> next(starts->begin(), starts->end() - 1);
  order->resize(size_t(count));
  for (int64_t k = 0; k < count; ++k) (*order)[size_t(next[size_t(key(k))]++)] = int32_t(k);
}

}  // namespace

bool Winograd::suits(const ConvShape& s, int64_t count) {
  if (s.kernel_height != 3 || s.kernel_width != 3 || s.stride_y != 1 || s.stride_x != 1 || s.dilation_y != 1 ||
      s.dilation_x != 1 || s.groups != 1 || s.pad_y > 2 || s.pad_x > 2)
    return false;
  const int64_t units = int64_t(patches(s.out_height())) * patches(s.out_width());
  // With fewer units too little work shares the transformed weights, with fewer outputs the transformed inputs.
  if (units < 4 || s.outputs < 8) return false;
  const int64_t pairs = int64_t(s.inputs) * s.outputs;
  const int64_t cost = kPoints * (units * (pairs + kCostOfTransform * (s.inputs + s.outputs)) + kCostOfWeight * pairs);
  return double(cost) < kCostOfKept * double(count) * s.out_height() * s.out_width();
}

Winograd::Winograd(const ConvShape& s, const int64_t* positions, int64_t count)
    : forward_{s.inputs, s.outputs, s.out_height(), s.out_width(), s.pad_y, s.pad_x, {}, {}, {}},
      backward_{s.outputs, s.inputs, s.height, s.width, 2 - s.pad_y, 2 - s.pad_x, {}, {}, {}} {
  forward_.fill(positions, count, false);
  backward_.fill(positions, count, true);
  // Ascending positions are in the order of the blocks already.
  const int64_t across = sum_columns() / 16;
  block_starts_.assign(size_t(s.outputs * across) + 1, 0);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t input = positions[k] / 9 % s.inputs, output = positions[k] / 9 / s.inputs;
    ++block_starts_[size_t(output * across + input / 16) + 1];
    block_places_.push_back(int32_t(positions[k] % 9 * 16 + input % 16));
  }
  for (size_t b = 1; b < block_starts_.size(); ++b) block_starts_[b] += block_starts_[b - 1];
}

// The gradient of the input is a convolution too: from outputs to inputs, with the weights turned half round.
void Winograd::Direction::fill(const int64_t* positions, int64_t count, bool turned) {
  const int64_t depth = turned ? outputs : inputs;
  const auto from = [&](int64_t k) { return turned ? positions[k] / 9 / depth : positions[k] / 9 % depth; };
  const auto to = [&](int64_t k) { return turned ? positions[k] / 9 % depth : positions[k] / 9 / depth; };
  sort_by(count, inputs, from, &starts, &order);
  for (int32_t k : order) {
    const int64_t tap = turned ? 8 - positions[k] % 9 : positions[k] % 9;
    places.push_back(int32_t(tap * plane() + from(k) * padded() + to(k)));
  }
}

void Winograd::Direction::arrange(const SplitKernels* split, const float* values, int index, int parts,
                                  float* own) const {
  if (!may_split()) split = nullptr;
  const Range mine = share(inputs, index, parts, split ? kSplitDepth : 1);
  for (int32_t k = starts[size_t(mine.begin)]; k < starts[size_t(mine.end)]; ++k)
    own[places[size_t(k)]] = values[order[size_t(k)]];
  float* u = own + 9 * plane();
  SECATEUR_TABLE(winograd_kernels).weights(own, inputs, depth(split), padded(), mine.begin, mine.end, stride(), u);
  if (split && mine.begin < mine.end) split_weights(*split, mine, u);
}

void Winograd::Direction::split_weights(const SplitKernels& split, Range mine, float* u) const {
  const int64_t deep = depth(true), end = mine.end == inputs ? deep : mine.end;
  for (int64_t p = 0; p < kPoints; ++p) {
    for (int64_t k = 0; k < padded() / kRowsOfBlock; ++k) {
      float* block = u + p * stride() + k * deep * kRowsOfBlock;
      std::fill(block + mine.end * kRowsOfBlock, block + end * kRowsOfBlock, 0.0f);
      split.weights(block + mine.begin * kRowsOfBlock, (end - mine.begin) / kSplitDepth);
    }
  }
}

void Winograd::Direction::convolve(const SplitKernels* split, const float* own, const float* bias, bool relu, bool add,
                                   const Planes& x, const Planes& y, int32_t tiles, int index, int parts) const {
  if (!may_split()) split = nullptr;
  const WinogradKernels& kernels = SECATEUR_TABLE(winograd_kernels);
  const float* weights = own + 9 * plane();
  const int64_t deep = depth(split);
  const Range mine = share(int64_t(tiles) * patches(height) * patches(width), index, parts, 2);
  const int64_t most = std::clamp<int64_t>(transformed_bytes() / (kPoints * (inputs + outputs) * 64) / 2 * 2, 2, 8);
  const int64_t in_stride = apart(inputs * most * 16), out_stride = apart(outputs * most * 16);
  float* v = room(kPoints * (in_stride + out_stride) + (split ? deep * most * 16 : 0));
  float *m = v + kPoints * in_stride, *right = m + kPoints * out_stride;
  for (int64_t u0 = mine.begin; u0 < mine.end; u0 += most) {
    const int64_t u1 = std::min(mine.end, u0 + most), count = (u1 - u0) * 16;
    for (int32_t c = 0; c < inputs; ++c)
      kernels.input(plane_of(x, c, -pad_y * x.row - pad_x * 16, height, width), 0, 6, u0, u1, in_stride,
                    v + c * count);
    if (split) split->enter();
    for (int64_t p = 0; p < kPoints; ++p) {
      const float* u = weights + p * stride();
      float *points = v + p * in_stride, *to = m + p * out_stride;
      if (split) {
        split->right(points, inputs, count, right);
        split->multiply(u, right, deep, outputs, count, false, to);
      } else {
        kernels.multiply(u, points, inputs, outputs, count, false, to);
      }
    }
    if (split) split->leave();
    for (int32_t k = 0; k < outputs; ++k)
      kernels.output(m + k * count, out_stride, u0, u1, bias ? bias[k] : 0.0f, relu, add,
                     plane_of(y, k, 0, height, width));
  }
}

Halo Winograd::input_halo() const {
  const Direction& d = forward_;  // whose input is the image that `backward_` writes
  return {d.pad_y, d.pad_x, kPatch * patches(d.height) + 2 - d.pad_y - backward_.height,
          kPatch * patches(d.width) + 2 - d.pad_x - backward_.width};
}

Halo Winograd::gradient_halo() const {
  const Direction& d = backward_;
  // It is read by patches of the input, and by those of the output when the weights' gradient is summed.
  const int32_t below = std::max(kPatch * patches(d.height) + 2 - d.pad_y, kPatch * patches(forward_.height));
  const int32_t right = std::max(kPatch * patches(d.width) + 2 - d.pad_x, kPatch * patches(forward_.width));
  return {d.pad_y, d.pad_x, below - forward_.height, right - forward_.width};
}

int64_t Winograd::floats() const { return forward_.floats() + backward_.floats() + kPoints * sum_stride(); }

void Winograd::arrange_forward(const SplitKernels* split, const float* values, int index, int parts, float* own) const {
  forward_.arrange(split, values, index, parts, own);
}

void Winograd::arrange_backward(const SplitKernels* split, const float* values, int index, int parts, float* own) const {
  backward_.arrange(split, values, index, parts, own + forward_.floats());
}

void Winograd::forward(const SplitKernels* split, const float* own, const float* bias, bool relu, const Planes& x,
                       const Planes& y, int32_t tiles, int index, int parts) const {
  forward_.convolve(split, own, bias, relu, false, x, y, tiles, index, parts);
}

void Winograd::backward(const SplitKernels* split, const float* own, const Planes& dy, const Planes& dx, bool add,
                        int32_t tiles, int index, int parts) const {
  backward_.convolve(split, own + forward_.floats(), nullptr, false, add, dy, dx, tiles, index, parts);
}

// The points of these rows, which no other thread sums, over all units.
void Winograd::sum_points(const SplitKernels* split, float* sums, const Planes& x, const Planes& dy, int32_t tiles,
                          Range rows) const {
  const WinogradKernels& kernels = SECATEUR_TABLE(winograd_kernels);
  const Direction& d = forward_;
  const int row0 = int(rows.begin), row1 = int(rows.end);
  const int64_t points = 6 * (rows.end - rows.begin), columns = sum_columns();
  const int64_t units = int64_t(tiles) * patches(d.height) * patches(d.width);
  // The same for any number of threads, so that the sums are.
  const int64_t most = std::clamp<int64_t>(kSumBytes / (kPoints * (d.inputs + d.outputs) * 64) / 2 * 2, 4, 32);
  const int64_t in_stride = apart(d.inputs * most * 16), out_stride = apart(d.outputs * most * 16);
  float* v = room(points * (in_stride + out_stride) + (2 * columns + d.padded()) * most * 16);
  float* m = v + points * in_stride;
  float *turned_v = m + points * out_stride, *turned_m = turned_v + columns * most * 16,
        *right = turned_m + d.padded() * most * 16;
  sums += row0 * 6 * sum_stride();
  for (int64_t u0 = 0; u0 < units; u0 += most) {
    const int64_t u1 = std::min(units, u0 + most), count = (u1 - u0) * 16;
    for (int32_t c = 0; c < d.inputs; ++c)
      kernels.input(plane_of(x, c, -d.pad_y * x.row - d.pad_x * 16, d.height, d.width), row0, row1, u0, u1, in_stride,
                    v + c * count);
    for (int32_t k = 0; k < d.outputs; ++k)
      kernels.gradient(plane_of(dy, k, 0, d.height, d.width), row0, row1, u0, u1, out_stride, m + k * count);
    // With the samples outermost this is a product like the others: sums over lanes would take as long.
    const bool splits = split && count % kSplitDepth == 0;
    if (splits) split->enter();
    for (int64_t p = 0; p < points; ++p) {
      float* to = sums + p * sum_stride();
      kernels.transpose(v + p * in_stride, d.inputs, count, columns, 16, turned_v);
      if (splits) {
        split->left(m + p * out_stride, d.outputs, count, turned_m);
        split->right(turned_v, count, columns, right);
        split->multiply(turned_m, right, count, d.outputs, columns, u0 > 0, to);
      } else {
        kernels.transpose(m + p * out_stride, d.outputs, count, 16, 16 * count, turned_m);
        kernels.multiply(turned_m, turned_v, count, d.outputs, columns, u0 > 0, to);
      }
    }
    if (splits) split->leave();
  }
}

void Winograd::gradient(const SplitKernels* split, float* own, const Planes& x, const Planes& dy, int32_t tiles,
                        Barrier& barrier, int index, int parts, float* out) const {
  float* sums = own + forward_.floats() + backward_.floats();
  const Range rows = share(6, index, parts);
  if (rows.begin < rows.end) sum_points(split, sums, x, dy, tiles, rows);
  barrier.wait(parts);
  const Range mine = share(int64_t(block_starts_.size()) - 1, index, parts);
  float found[9 * 16];
  for (int64_t b = mine.begin; b < mine.end; ++b) {
    SECATEUR_TABLE(winograd_kernels).weight_gradient(sums + 16 * b, sum_stride(), found);
    for (int32_t k = block_starts_[size_t(b)]; k < block_starts_[size_t(b) + 1]; ++k)
      out[k] = found[block_places_[size_t(k)]];
  }
}

}  // namespace secateur
