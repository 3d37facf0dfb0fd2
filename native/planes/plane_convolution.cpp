#include "planes/plane_convolution.h"

#include <algorithm>
#include <stdexcept>

#include "base/room.h"
#include "kernels/plane_kernels.h"

namespace secateur {
namespace {

// Multiply-adds of vectors below which another thread costs more than it brings.
constexpr int64_t kWorkPerThread = 20000;

// Positions: as many as sixteen vectors have, nearly; so many that one sample alone will do.
constexpr int64_t kWanted = 240, kEnough = 192;

int64_t rounded(int64_t floats) { return (floats + 15) / 16 * 16; }

ConvSweep sweep_of(int32_t width) { return {1, width, 1, 0, 0, 16, 1, true}; }

}  // namespace

PlaneConvolution::PlaneConvolution(const ConvShape& shape, const int64_t* positions, int64_t count, int32_t together,
                                   bool trains)
    : shape_((check_convolution(shape, positions, count), shape)), layout_(shape, std::max(together, 1)),
      trains_(trains) {
  if (together < 1) throw std::invalid_argument("at least one sample must lie in a block");
  const ConvShape& s = shape_;
  const int64_t area = int64_t(s.height) * s.width;
  in_place_ = !trains && s.kernel_height * s.kernel_width == 1 && s.stride_y * s.stride_x == 1 &&
              s.pad_y + s.pad_x == 0 && together == 1 && area % 16 == 0;
  if (in_place_) layout_.plane = area, layout_.margin = 0;
  find_phases();
  if (std::max<int64_t>(s.inputs * int64_t(phases_.size()), s.outputs) * layout_.plane + layout_.margin >= INT32_MAX)
    throw std::invalid_argument("a convolution's offsets must fit 31 bits: fewer channels, or smaller images");
  plan_forward(positions, count);
  if (trains) plan_backward();
}

int32_t PlaneConvolution::side_by_side(const ConvShape& shape, int64_t samples) {
  const int64_t positions = std::max<int64_t>(1, int64_t(shape.out_height()) * shape.out_width());
  return positions >= kEnough ? 1 : int32_t(std::min<int64_t>(samples, (kWanted + positions - 1) / positions));
}

void PlaneConvolution::find_phases() {
  for (int32_t y = 0; y < shape_.kernel_height; ++y) {
    for (int32_t x = 0; x < shape_.kernel_width; ++x) {
      const Phase phase{layout_.rows.phase(y), layout_.columns.phase(x)};
      if (std::find(phases_.begin(), phases_.end(), phase) == phases_.end()) phases_.push_back(phase);
    }
  }
}

void PlaneConvolution::plan_forward(const int64_t* positions, int64_t count) {
  const ConvShape& s = shape_;
  const int32_t area = s.kernel_height * s.kernel_width, depth = s.inputs / s.groups, each = s.outputs / s.groups;
  forward_.starts.assign(size_t(s.outputs) + 1, 0);
  for (int64_t k = 0; k < count; ++k) {
    const int32_t inside = int32_t(positions[k] % (int64_t(depth) * area));
    const int32_t output = int32_t(positions[k] / (int64_t(depth) * area));
    const int32_t input = output / each * depth + inside / area;
    const int32_t y = inside % area / s.kernel_width, x = inside % s.kernel_width;
    const Phase phase{layout_.rows.phase(y), layout_.columns.phase(x)};
    const int32_t which = int32_t(std::find(phases_.begin(), phases_.end(), phase) - phases_.begin());
    const int64_t shift = layout_.rows.shift(y) * layout_.pitch + layout_.columns.shift(x);
    taps_.push_back({output, input, which, shift});
    forward_.order.push_back(int32_t(k));
    forward_.channels.push_back(input);
    forward_.offsets.push_back(int32_t((int64_t(input) * int64_t(phases_.size()) + which) * layout_.plane + shift));
    ++forward_.starts[size_t(output) + 1];
  }
  for (int32_t o = 0; o < s.outputs; ++o) forward_.starts[size_t(o) + 1] += forward_.starts[size_t(o)];
  forward_.find_blocks(int64_t(phases_.size()) * layout_.width * 64);
}

// By counting: a row's taps stay in the order of their outputs.
void PlaneConvolution::plan_backward() {
  const int32_t inputs = shape_.inputs;
  std::vector<int32_t>& starts = backward_.starts;
  starts.assign(size_t(inputs) * phases_.size() + 1, 0);
  const auto row_of = [&](const Tap& t) { return size_t(t.phase) * size_t(inputs) + size_t(t.input); };
  for (const Tap& t : taps_) ++starts[row_of(t) + 1];
  for (size_t r = 0; r + 1 < starts.size(); ++r) starts[r + 1] += starts[r];
  backward_.order.resize(taps_.size()), backward_.offsets.resize(taps_.size()), backward_.channels.resize(taps_.size());
  std::vector<int32_t> next(starts.begin(), starts.end() - 1);
  for (size_t k = 0; k < taps_.size(); ++k) {
    const size_t at = size_t(next[row_of(taps_[k])]++);
    backward_.order[at] = int32_t(k);
    backward_.channels[at] = taps_[k].output;
    backward_.offsets[at] = int32_t(taps_[k].output * layout_.plane - taps_[k].shift);
  }
  backward_.find_blocks(layout_.width * 64);
}

PlaneConvolution::Room PlaneConvolution::room(int64_t samples) const {
  const int64_t planes = int64_t(shape_.inputs) * int64_t(phases_.size()), many = blocks(samples);
  Room r;
  r.forward_values = 0;
  r.x = rounded(forward_.floats());
  r.forward_end = r.x + (in_place_ ? 0 : many * planes * layout_.plane + layout_.margin);
  r.backward_values = r.forward_end;
  r.sums = r.backward_values + rounded(trains_ ? backward_.floats() : 0);
  r.dy = r.sums + (trains_ ? rounded(forward_.floats() + 16 * int64_t(shape_.outputs) + 64) : 0);
  r.end = r.dy + (trains_ ? many * shape_.outputs * layout_.plane + layout_.margin : 0);
  return r;
}

int64_t PlaneConvolution::floats(int64_t samples, bool training) const {
  const Room r = room(samples);
  return (training ? r.end : r.forward_end) + 16;
}

int PlaneConvolution::threads_worth(int threads, int64_t samples) const {
  const int64_t all = work(samples) + (in_features() + out_features()) * samples / 8;
  return int(std::clamp<int64_t>(all / kWorkPerThread, 1, std::max(threads, 1)));
}

PlaneLayout::Images PlaneConvolution::outputs(int64_t samples) const {
  return {layout_.rows.out, layout_.columns.out, samples, out_features(), layout_.columns.out, 1};
}

PlaneLayout::Images PlaneConvolution::inputs(const Phase& phase, int64_t samples) const {
  return {layout_.rows.of_phase(phase.first), layout_.columns.of_phase(phase.second), samples, in_features(),
          int64_t(shape_.stride_y) * shape_.width, shape_.stride_x};
}

// Each thread has its channels. What no output reads is left out: in the long row there may be something else.
void PlaneConvolution::pack_inputs(const Team& team, const float* x, int64_t samples, bool clears, float* to) const {
  const int64_t area = int64_t(shape_.height) * shape_.width, many = int64_t(phases_.size());
  const Range channels = share(shape_.inputs, team.index, team.parts);
  std::vector<PlaneSegment> segments;
  for (int64_t block = 0; block < blocks(samples); ++block) {
    for (int64_t p = 0; p < many; ++p) {
      const auto [a, b] = phases_[size_t(p)];
      PlaneLayout::Images images = inputs(phases_[size_t(p)], here(block, samples));
      images.height = layout_.rows.read(a), images.across = layout_.columns.read(b);
      layout_.segments(0, layout_.samples * layout_.sample, images, segments);
      PlaneCopy copy{segments.data(), int64_t(segments.size()), images.step, many * layout_.plane, area};
      if (clears && layout_.margin) copy.begin = -layout_.margin, copy.end = layout_.plane - layout_.margin;
      SECATEUR_TABLE(plane_kernels)
          .gather(copy, channels.end - channels.begin,
                  x + block * layout_.samples * in_features() + int64_t(a) * shape_.width + b + channels.begin * area,
                  to + ((block * shape_.inputs + channels.begin) * many + p) * layout_.plane);
    }
  }
  if (clears && team.index == 0) {  // behind the last one
    float* end = to + blocks(samples) * shape_.inputs * many * layout_.plane;
    std::fill(end - layout_.margin, end, 0.0f);
  }
}

void PlaneConvolution::pack_gradients(const Team& team, const float* dy, int64_t samples, float* to) const {
  const int64_t area = int64_t(layout_.rows.out) * layout_.columns.out;
  const Range channels = share(shape_.outputs, team.index, team.parts);
  std::vector<PlaneSegment> segments;
  for (int64_t block = 0; block < blocks(samples); ++block) {
    layout_.segments(0, layout_.samples * layout_.sample, outputs(here(block, samples)), segments);
    SECATEUR_TABLE(plane_kernels)
        .gather({segments.data(), int64_t(segments.size()), 1, layout_.plane, area}, channels.end - channels.begin,
                dy + block * layout_.samples * out_features() + channels.begin * area,
                to + (block * shape_.outputs + channels.begin) * layout_.plane);
  }
}

// compute(block, first position, y, index, parts) fills its rows of y with the positions of one part, leave(block,
// first position, row, y) takes a row of them away, while it is in the cache. Threads share the parts, or the rows
// where there are few parts.
template <class Compute, class Leave>
void PlaneConvolution::each_part(const Team& team, int64_t samples, int32_t parts, const ConvRows& rows,
                                 Compute compute, Leave leave) const {
  const int64_t step = layout_.width * 16, channel = layout_.width % 2 ? step : step + 16;
  const int64_t all = parts * blocks(samples);
  const bool by_rows = all < 4 * team.parts && all % team.parts != 0;
  const int index = by_rows ? team.index : 0, of = by_rows ? team.parts : 1;
  const Range mine = by_rows ? Range{0, all} : share(all, team.index, team.parts);
  const std::vector<int32_t> own = rows.rows_of(index, of);
  const Planes y{scratch(Scratch::places, rows.rows() * channel), 0, channel, 0, 16};
  for (int64_t part = mine.begin; part < mine.end; ++part) {
    const int64_t block = part / parts, first = part % parts * step;
    compute(block, first, y, index, of);
    leave(block, first, own, y);
  }
}

void PlaneConvolution::forward(const Team& team, const float* values, const float* bias, const float* x,
                               int64_t samples, float* work, float* y, Finish finish) const {
  const Room r = room(samples);
  const ConvKernels& kernels = SECATEUR_TABLE(conv_kernels);
  forward_.arrange_blocks(values, team.index, team.parts, work);
  if (!in_place_) pack_inputs(team, x, samples, finish.clears, work + r.x + layout_.margin);
  team.wait();
  if (in_place_) return forward_in_place(team, values, work, bias, x, samples, y, finish);
  const int64_t planes = int64_t(shape_.inputs) * int64_t(phases_.size());
  const int64_t area = int64_t(layout_.rows.out) * layout_.columns.out, step = layout_.width * 16;
  std::vector<PlaneSegment> segments;
  each_part(
      team, samples, layout_.forward_parts, forward_,
      [&](int64_t block, int64_t first, const Planes& made, int index, int parts) {
        const Planes from{work + r.x + layout_.margin + block * planes * layout_.plane + first, 0, 0, 0, 16};
        forward_.convolve(kernels, values, work, bias, finish.relu && !finish.adds, false, from, made,
                          sweep_of(layout_.width), index, parts);
      },
      [&](int64_t block, int64_t first, const std::vector<int32_t>& rows, const Planes& made) {
        layout_.segments(first, first + step, outputs(here(block, samples)), segments);
        const PlaneCopy copy{segments.data(), int64_t(segments.size()), 1, made.channel, area, 0, 0, finish.adds,
                             finish.relu};
        SECATEUR_TABLE(plane_kernels)
            .scatter(copy, rows.data(), int64_t(rows.size()), made.at - first,
                     y + block * layout_.samples * out_features());
      });
}

void PlaneConvolution::forward_in_place(const Team& team, const float* values, const float* of_blocks,
                                        const float* bias, const float* x, int64_t samples, float* y,
                                        Finish finish) const {
  const int64_t vectors = layout_.plane / 16, parts = (vectors + layout_.width - 1) / layout_.width;
  const int64_t all = parts * samples;
  const bool by_rows = all < 4 * team.parts && all % team.parts != 0;
  const Range mine = by_rows ? Range{0, all} : share(all, team.index, team.parts);
  for (int64_t part = mine.begin; part < mine.end; ++part) {
    const int64_t sample = part / parts, first = part % parts * layout_.width;
    const Planes from{const_cast<float*>(x) + sample * in_features() + first * 16, 0, 0, 0, 16};
    const Planes to{y + sample * out_features() + first * 16, 0, layout_.plane, 0, 16};
    forward_.convolve(SECATEUR_TABLE(conv_kernels), values, of_blocks, bias, finish.relu, finish.adds, from, to,
                      sweep_of(int32_t(std::min<int64_t>(layout_.width, vectors - first))),
                      by_rows ? team.index : 0, by_rows ? team.parts : 1);
  }
}

void PlaneConvolution::backward(const Team& team, const float* values, const float* dy, int64_t samples, float* work,
                                float* of_values, float* of_bias, float* dx) const {
  const Room r = room(samples);
  const int64_t planes = int64_t(shape_.inputs) * int64_t(phases_.size()), many = blocks(samples);
  float *x_planes = work + r.x + layout_.margin, *dy_planes = work + r.dy + layout_.margin;
  pack_gradients(team, dy, samples, dy_planes);
  if (dx) backward_.arrange(values, team.index, team.parts, work + r.backward_values);
  if (of_values) {  // of two taps that read the same zeros of a border, only one may be computed
    const Range mine = share(count(), team.index, team.parts, 16);
    std::fill(of_values + mine.begin, of_values + mine.end, 0.0f);
  }
  team.wait();
  if (of_values) {
    const int64_t step = layout_.width * 16;
    const Planes from{x_planes, planes * layout_.plane, layout_.plane, step, 16};
    const Planes given{dy_planes, shape_.outputs * layout_.plane, layout_.plane, step, 16};
    const ConvSweep sweep{layout_.forward_parts, layout_.width, int32_t(many), step, step, 16, 1};
    forward_.gradient(SECATEUR_TABLE(conv_kernels), from, given, sweep, planes * step * 4, 1, nullptr, team.index,
                      team.parts, work + r.sums, of_values);
  }
  if (of_bias) {
    const Extent extent{int32_t(many), 1, layout_.forward_parts * layout_.width, 16};
    const Range channels = share(shape_.outputs, team.index, team.parts);
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      const Plane plane{dy_planes + c * layout_.plane, shape_.outputs * layout_.plane, 0, 16};
      of_bias[c] = float(SECATEUR_TABLE(plane_kernels).total(extent, plane));
    }
  }
  if (dx) backward_inputs(team, work + r.backward_values, dy_planes, samples, dx);
}

void PlaneConvolution::backward_inputs(const Team& team, const float* own, const float* planes, int64_t samples,
                                       float* dx) const {
  const ConvShape& s = shape_;
  const int64_t area = int64_t(s.height) * s.width, step = layout_.width * 16;
  const auto there = [&](const Phase& phase) { return phase.first < s.height && phase.second < s.width; };
  if (std::count_if(phases_.begin(), phases_.end(), there) <
      int64_t(std::min(s.stride_y, s.height)) * std::min(s.stride_x, s.width)) {
    const Range mine = share(samples * in_features(), team.index, team.parts, 16);  // inputs that nobody reads
    std::fill(dx + mine.begin, dx + mine.end, 0.0f);
    team.wait();
  }
  std::vector<PlaneSegment> segments;
  std::vector<int32_t> of_phase;
  each_part(
      team, samples, layout_.backward_parts, backward_,
      [&](int64_t block, int64_t first, const Planes& made, int index, int parts) {
        const Planes from{const_cast<float*>(planes) + block * s.outputs * layout_.plane + first, 0, 0, 0, 16};
        backward_.convolve(SECATEUR_TABLE(conv_kernels), own, own + backward_.order.size(), nullptr, false, false,
                           from, made, sweep_of(layout_.width), index, parts);
      },
      [&](int64_t block, int64_t first, const std::vector<int32_t>& rows, const Planes& made) {
        for (size_t p = 0; p < phases_.size(); ++p) {
          layout_.segments(first, first + step, inputs(phases_[p], here(block, samples)), segments);
          of_phase.clear();  // its rows, as channels
          for (int32_t row : rows)
            if (row / s.inputs == int32_t(p)) of_phase.push_back(row % s.inputs);
          const PlaneCopy copy{segments.data(), int64_t(segments.size()), s.stride_x, made.channel, area};
          SECATEUR_TABLE(plane_kernels)
              .scatter(copy, of_phase.data(), int64_t(of_phase.size()),
                       made.at + int64_t(p) * s.inputs * made.channel - first,
                       dx + block * layout_.samples * in_features() + int64_t(phases_[p].first) * s.width +
                           phases_[p].second);
        }
      });
}

}  // namespace secateur
