// How images lie for a convolution whose vectors run along positions instead of over samples: for small batches.
//
// Each channel is one long row of positions: image row behind image row, sample behind sample, with zeros between them
// where the kernel reaches beyond the image. Then a tap reads its input at one distance from every output, whatever the
// image is, and vectors run over the ends of rows. What they compute between two images is left behind.
//
// With a stride s the input is taken apart into s · s images of every s-th row and column (its phases), and the
// convolution of each of them has stride 1.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/plane_kernels.h"

namespace secateur {

struct ConvShape;

// One direction of an image: output j reads input j · stride + k · dilation − pad through column k of the kernel, that
// is number j + shift(k) of phase(k).
struct PlaneAxis {
  int32_t size, out, kernel, stride, pad, dilation;

  int32_t phase(int32_t k) const { return ((reach(k) % stride) + stride) % stride; }
  int32_t shift(int32_t k) const { return (reach(k) - phase(k)) / stride; }
  // How many rows (or columns) a phase has; phase 0 has most.
  int32_t of_phase(int32_t a) const { return a < size ? (size - a + stride - 1) / stride : 0; }
  // Those of them that any output reads.
  int32_t read(int32_t a) const { return std::clamp(out + shift(kernel - 1), 0, of_phase(a)); }
  // From one row to the next: neither direction may reach the next one's numbers.
  int32_t pitch() const;
  // The farthest that either direction reaches.
  int32_t farthest() const { return std::max(std::abs(shift(0)), std::abs(shift(kernel - 1))); }

 private:
  int32_t reach(int32_t k) const { return k * dilation - pad; }
};

class PlaneLayout {
 public:
  // `samples`: how many of them make one block, in which they lie side by side.
  PlaneLayout(const ConvShape& shape, int64_t samples);

  PlaneAxis rows, columns;
  int64_t samples;
  int64_t pitch;   // from one image row to the next
  int64_t sample;  // from one sample to the next
  int64_t margin;  // zeros before and behind each long row
  int64_t plane;   // from one channel to the next
  int32_t width;   // vectors that are computed together
  int32_t forward_parts, backward_parts;  // how many such the outputs take, and the inputs of a phase

  int32_t parts() const { return std::max(forward_parts, backward_parts); }
  // The rows [height, across] of the first `count` images that lie in the positions [from, to) of a block. In memory
  // there are `features` numbers to a sample, `row_step` to a row and `step` to a column.
  struct Images {
    int32_t height, across;
    int64_t count, features, row_step, step;
  };
  void segments(int64_t from, int64_t to, const Images&, std::vector<PlaneSegment>& found) const;
};

}  // namespace secateur
