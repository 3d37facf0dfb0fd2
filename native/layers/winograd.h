// One 3×3 convolution that keeps so many weights that Winograd's algorithm, which computes with all of them, takes
// fewer multiply-adds than the kept weights do.

#pragma once

#include <cstdint>
#include <vector>

#include "kernels/conv_kernels.h"
#include "split/kernels.h"
#include "layers/conv_rows.h"

namespace secateur {

struct ConvShape;
struct Halo;

class Winograd {
 public:
  // Whether it is expected to be faster than `count` kept weights one by one.
  static bool suits(const ConvShape&, int64_t count);
  // `positions`: of the kept weights, checked already.
  Winograd(const ConvShape&, const int64_t* positions, int64_t count);

  // Patches of four may reach beyond the image, and read zeros there.
  Halo input_halo() const;
  Halo gradient_halo() const;

  // Its own floats, zero when new, and kept from the forward pass to the backward pass. `split`: multiplies the points'
  // matrices, the same for arranging and for what follows; null: in float32.
  int64_t floats() const;
  void arrange_forward(const SplitKernels* split, const float* values, int index, int parts, float* own) const;
  void arrange_backward(const SplitKernels* split, const float* values, int index, int parts, float* own) const;
  void forward(const SplitKernels* split, const float* own, const float* bias, bool relu, const Planes& x, const Planes& y,
               int32_t tiles, int index, int parts) const;
  void backward(const SplitKernels* split, const float* own, const Planes& dy, const Planes& dx, bool add, int32_t tiles,
                int index, int parts) const;
  // The gradients of the kept weights, in storage order.
  void gradient(const SplitKernels* split, float* own, const Planes& x, const Planes& dy, int32_t tiles, Barrier&,
                int index, int parts, float* out) const;

 private:
  // The weights as one direction reads them: those of input c are starts[c] … starts[c + 1].
  struct Direction {
    int32_t inputs, outputs, height, width, pad_y, pad_x;  // sizes of what is written
    std::vector<int32_t> starts, order, places;

    int64_t padded() const { return (outputs + kRowsOfBlock - 1) / kRowsOfBlock * kRowsOfBlock; }
    int64_t plane() const { return inputs * padded(); }
    // With few inputs most of a tile would be zeros.
    bool may_split() const { return inputs >= 16; }
    int64_t depth(bool split) const { return split ? (inputs + kSplitDepth - 1) / kSplitDepth * kSplitDepth : inputs; }
    // Of the points: they must not share a set of a cache.
    int64_t stride() const { return depth(may_split()) * padded() + 16; }
    int64_t floats() const { return 9 * plane() + kPoints * stride(); }
    void fill(const int64_t* positions, int64_t count, bool turned);
    void arrange(const SplitKernels* split, const float* values, int index, int parts, float* own) const;
    void split_weights(const SplitKernels& split, Range inputs, float* u) const;
    void convolve(const SplitKernels* split, const float* own, const float* bias, bool relu, bool add, const Planes& x,
                  const Planes& y, int32_t tiles, int index, int parts) const;
  };

  // The sums of the weights' gradients: at each point [outputs, inputs], in whole blocks of 16 inputs.
  int64_t sum_columns() const { return (forward_.inputs + 15) / 16 * 16; }
  int64_t sum_stride() const { return forward_.outputs * sum_columns() + 16; }
  void sum_points(const SplitKernels* split, float* sums, const Planes& x, const Planes& dy, int32_t tiles,
                  Range rows) const;

  Direction forward_, backward_;
  // The kept weights of block b, one output and 16 inputs: block_starts_[b] … block_starts_[b + 1].
  std::vector<int32_t> block_starts_, block_places_;
};

}  // namespace secateur
