// What is known about one masked convolution before any number flows: where each kept weight reads and writes.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "layers/conv_rows.h"
#include "layers/unpadded_gradient.h"
#include "layers/winograd.h"

namespace secateur {

// The borders of zeros around a channel, in positions.
struct Halo {
  int32_t top = 0, left = 0, bottom = 0, right = 0;

  void cover(const Halo& other);
};

struct ConvShape {
  int32_t inputs, outputs, groups;                        // channels
  int32_t height, width;                                  // of the input
  int32_t kernel_height, kernel_width;
  int32_t stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;

  int32_t out_height() const { return (height + 2 * pad_y - dilation_y * (kernel_height - 1) - 1) / stride_y + 1; }
  int32_t out_width() const { return (width + 2 * pad_x - dilation_x * (kernel_width - 1) - 1) / stride_x + 1; }
};

// Throws std::invalid_argument unless the kept weights' `positions` are ascending and inside the layer, and everything
// that the kernels compute with fits their numbers.
void check_convolution(const ConvShape& shape, const int64_t* positions, int64_t count);

class ConvLayer {
 public:
  // `positions`: flat indices of the kept weights in [outputs, inputs / groups, kernel_height, kernel_width],
  // ascending. Throws std::invalid_argument for anything else, so that the kernels need not check.
  ConvLayer(const ConvShape& shape, const int64_t* positions, int64_t count);

  const ConvShape& shape() const { return shape_; }
  int64_t count() const { return int64_t(tap_.size()); }
  // Multiply-adds of one sample.
  int64_t work() const { return count() * shape_.out_height() * shape_.out_width(); }
  // What the buffers must have around them: the input, and the gradient of the output.
  Halo input_halo() const;
  Halo gradient_halo() const;

  // Once the buffers' strides are known (one step is 16 floats): the offsets.
  void place(int64_t x_channel, int64_t x_row, int64_t dy_channel, int64_t dy_row);

  // What a call needs: values in the kernels' order for both directions, and room for sums.
  int64_t floats() const;
  // Part `index` of `parts` of each piece of work; `own` are those floats.
  // `split`: what multiplies patches, in all four calls; null: in float32.
  void arrange_forward(const SplitKernels* split, const float* values, int index, int parts, float* own) const;
  void arrange_backward(const SplitKernels* split, const float* values, int index, int parts, float* own) const;
  void forward(const ConvKernels&, const SplitKernels* split, const float* values, const float* own, const float* bias,
               bool relu, const Planes& x, const Planes& y, int32_t tiles, int index, int parts) const;
  // Whether rows of it can be computed on their own.
  bool by_rows() const { return !winograd_; }
  // The same for `rows` rows of one tile, from row `row` on, which is the first row of y.
  void forward_rows(const ConvKernels&, const float* values, const float* own, const float* bias, bool relu,
                    const Planes& x, int32_t tile, int32_t row, int32_t rows, const Planes& y) const;
  void backward(const ConvKernels&, const SplitKernels* split, const float* own, const Planes& dy, const Planes& dx,
                bool add, int32_t tiles, int index, int parts) const;
  // The gradients of the kept weights, in storage order. `made`: gives dy a channel and a tile at a time, if it is
  // not stored; only a layer that computes by rows takes that.
  void gradient(const ConvKernels&, const SplitKernels* split, float* own, const Planes& x, const Planes& dy,
                int32_t tiles, Barrier&, int index, int parts, float* out, const MadeChannels* made = nullptr) const;

 private:
  struct Tap {
    int32_t output, input, y, x;  // channels; kernel row and column
  };
  // Inputs with the same remainder modulo the stride, whose gradients depend on the same weights. With stride 1
  // there is one such phase.
  struct Phase {
    int32_t first_y, first_x, height, width;  // the positions written: first + i · stride
    ConvRows rows;
    std::vector<int32_t> taps_y, taps_x;
  };

  // With few inputs the transformed gradients would be used too little: then the weights' gradient is summed directly.
  bool sums_patches() const { return winograd_ && shape_.inputs >= 8; }
  int64_t backward_floats() const;
  void plan_backward();
  void add_phase(int32_t ry, int32_t rx);
  ConvShape shape_;
  std::vector<Tap> tap_;
  ConvRows forward_;
  std::vector<Phase> phases_;
  std::optional<UnpaddedGradient> unpadded_;  // instead of phases, where it is faster
  std::unique_ptr<Winograd> winograd_;        // instead of all of these, where that is
};

}  // namespace secateur
