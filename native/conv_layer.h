// What is known about one masked convolution before any number flows: where each kept weight reads and writes.

#pragma once

#include <cstdint>
#include <vector>

#include "conv_kernels.h"
#include "team.h"

namespace secateur {

// The borders of zeros around a channel, in positions.
struct Halo {
  int32_t top = 0, left = 0, bottom = 0, right = 0;

  void cover(const Halo& other);
};

// One channel after another of an activation or a gradient, for tiles of 16 samples; strides in floats.
struct Planes {
  float* at;  // tile 0, channel 0, position (0, 0)
  int64_t tile, channel, row, step;
};

struct ConvShape {
  int32_t inputs, outputs, groups;                        // channels
  int32_t height, width;                                  // of the input
  int32_t kernel_height, kernel_width;
  int32_t stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;

  int32_t out_height() const { return (height + 2 * pad_y - dilation_y * (kernel_height - 1) - 1) / stride_y + 1; }
  int32_t out_width() const { return (width + 2 * pad_x - dilation_x * (kernel_width - 1) - 1) / stride_x + 1; }
};

class ConvLayer {
 public:
  // `positions`: flat indices of the kept weights in [outputs, inputs / groups, kernel_height, kernel_width],
  // ascending. Throws std::invalid_argument for anything else, so that the kernels need not check.
  ConvLayer(const ConvShape& shape, const int64_t* positions, int64_t count);

  const ConvShape& shape() const { return shape_; }
  int64_t count() const { return int64_t(tap_.size()); }
  // What the buffers must have around them: the input, and the gradient of the output.
  Halo input_halo() const;
  Halo gradient_halo() const;
  bool feeds(int32_t input_channel) const { return used_inputs_[size_t(input_channel)] != 0; }
  int64_t multiply_adds(int32_t tiles) const { return count() * shape_.out_height() * shape_.out_width() * tiles; }

  // Once the buffers' strides are known (one step is 16 floats): the offsets.
  void place(int64_t x_channel, int64_t x_row, int64_t dy_channel, int64_t dy_row);

  // Values in the order in which `backward` wants them.
  void transpose_values(const float* values, Range entries, float* out) const;
  // Part `index` of `parts` of the work.
  void forward(const ConvKernels&, const float* values, const float* bias, bool relu, const Planes& x,
               const Planes& y, int32_t tiles, int index, int parts) const;
  void backward(const ConvKernels&, const float* transposed, const Planes& dy, const Planes& dx, bool add,
                int32_t tiles, int index, int parts) const;
  // The gradients of the entries of the output channels [channels.begin, channels.end).
  void gradient(const ConvKernels&, const Planes& x, const Planes& dy, int32_t tiles, Range channels,
                float* out) const;
  Range channels(int index, int parts) const;
  Range entries(Range channels) const {
    return {starts_[size_t(channels.begin)], starts_[size_t(channels.end)]};
  }

 private:
  struct Tap {
    int32_t output, input, y, x;  // channels; kernel row and column
  };
  // Outputs with the same remainder modulo the stride, which depend on the same weights. With stride 1 there is
  // one such phase; in the forward pass there is always one.
  struct Phase {
    int32_t first_y, first_x, height, width;  // the positions written: first + i · stride
    std::vector<int32_t> starts, offsets, order, taps_y, taps_x;
  };

  void check(const int64_t* positions, int64_t count);
  void add_phase(int32_t ry, int32_t rx);
  void run(const ConvKernels&, const Phase&, const float* values, const float* bias, bool relu, bool add,
           const Planes& x, const Planes& y, int64_t x_step_y, int64_t x_step_x, int64_t y_step_y, int64_t y_step_x,
           int32_t tiles, int index, int parts) const;

  ConvShape shape_;
  std::vector<Tap> tap_;
  std::vector<int32_t> starts_, offsets_;
  std::vector<uint8_t> used_inputs_;
  std::vector<Phase> phases_;
  Phase forward_;
};

}  // namespace secateur
