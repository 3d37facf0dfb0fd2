#include "planes/plane_layout.h"

#include "layers/conv_layer.h"

namespace secateur {
namespace {

constexpr int32_t kMostVectors = 16;  // whose sums the registers hold; with AVX2 and below, twelve

// The widest of 8 to 16 vectors that wastes least at the end.
int32_t even_width(int64_t vectors, int32_t most) {
  if (vectors <= most) return int32_t(vectors);
  int32_t best = most;
  const auto all = [&](int32_t w) { return (vectors + w - 1) / w * w; };
  for (int32_t w = most; w >= most / 2 + 1; --w)
    if (all(w) < all(best)) best = w;
  return best;
}

int64_t whole_vectors(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace

int32_t PlaneAxis::pitch() const {
  const int32_t first = shift(0), last = shift(kernel - 1), inputs = of_phase(0);
  const int32_t forward = std::max(out + last, read(0) + std::max(0, -first));
  const int32_t backward = std::max(inputs - first, out + std::max(0, last));
  return std::max({forward, backward, out, inputs});
}

PlaneLayout::PlaneLayout(const ConvShape& s, int64_t count)
    : rows{s.height, s.out_height(), s.kernel_height, s.stride_y, s.pad_y, s.dilation_y},
      columns{s.width, s.out_width(), s.kernel_width, s.stride_x, s.pad_x, s.dilation_x},
      samples(count) {
  pitch = columns.pitch();
  sample = int64_t(rows.pitch()) * pitch;
  margin = whole_vectors(rows.farthest() * pitch + columns.farthest());
  const auto vectors = [&](int32_t height, int32_t across) {
    return (((samples - 1) * sample + (height - 1) * pitch + across) + 15) / 16;
  };
  const int64_t outputs = vectors(rows.out, columns.out), inputs = vectors(rows.of_phase(0), columns.of_phase(0));
  width = even_width(outputs, kMostVectors);
  forward_parts = int32_t((outputs + width - 1) / width);
  backward_parts = int32_t((inputs + width - 1) / width);
  plane = int64_t(parts()) * width * 16 + margin;
  // Channels that are a power of two apart would share the sets of a cache.
  if (plane / 16 % 2 == 0) plane += 16;
}

void PlaneLayout::segments(int64_t from, int64_t to, const Images& images, std::vector<PlaneSegment>& found) const {
  found.clear();
  for (int64_t n = from / sample; n < images.count && n * sample < to; ++n) {
    const int64_t first = std::max<int64_t>(0, (from - n * sample) / pitch);
    for (int64_t i = first; i < images.height && n * sample + i * pitch < to; ++i) {
      const int64_t begin = n * sample + i * pitch;
      const int64_t a = std::max(begin, from), b = std::min(begin + images.across, to);
      if (a >= b) continue;
      const int64_t place = n * images.features + i * images.row_step + (a - begin) * images.step;
      PlaneSegment* last = found.empty() ? nullptr : &found.back();
      const bool follows = last && images.step == 1 && last->at + last->count == a && last->place + last->count == place;
      if (follows) {
        last->count += int32_t(b - a);
      } else {
        found.push_back({a, place, int32_t(b - a)});
      }
    }
  }
}

}  // namespace secateur
