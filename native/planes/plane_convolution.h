// One masked convolution of small batches: vectors run along the positions of the images (plane_layout.h), so that one
// sample takes a sixteenth of what sixteen take, and 1×1 convolutions can read and write images where they are.

#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/team.h"
#include "layers/conv_layer.h"
#include "layers/conv_rows.h"
#include "planes/plane_layout.h"

namespace secateur {

class PlaneConvolution {
 public:
  // `positions`: as for ConvLayer. `together`: how many samples lie side by side. `trains`: whether gradients will be
  // asked for. Throws std::invalid_argument for what does not fit.
  PlaneConvolution(const ConvShape& shape, const int64_t* positions, int64_t count, int32_t together, bool trains);
  // How many samples suit a long row, of a batch of so many: enough to fill the sums that registers hold.
  static int32_t side_by_side(const ConvShape& shape, int64_t samples);

  const ConvShape& shape() const { return shape_; }
  int64_t count() const { return int64_t(forward_.order.size()); }
  // What calls with so many samples need, zero when new. That of a backward pass is left by the forward pass.
  int64_t floats(int64_t samples, bool training) const;
  // Multiply-adds of vectors in a forward pass.
  int64_t work(int64_t samples) const { return count() * layout_.forward_parts * layout_.width * blocks(samples); }
  int threads_worth(int threads, int64_t samples) const;

  struct Team {
    Barrier& barrier;
    int index, parts;
    void wait() const { barrier.wait(parts); }
  };
  // What becomes of the outputs. `adds`: they are added to y; `relu`: and rectified. `clears`: the workspace is not zero
  // where images have borders.
  struct Finish {
    bool relu = false, adds = false, clears = false;
  };
  // x: [samples, inputs, height, width], contiguous; y likewise.
  void forward(const Team&, const float* values, const float* bias, const float* x, int64_t samples, float* work,
               float* y, Finish finish) const;
  // Gradients of the values, the bias and x, each where it is wanted (not null).
  void backward(const Team&, const float* values, const float* dy, int64_t samples, float* work, float* of_values,
                float* of_bias, float* dx) const;

 private:
  // Where each thing begins in the workspace.
  struct Room {
    int64_t forward_values, x, forward_end, backward_values, sums, dy, end;
  };
  using Phase = std::pair<int32_t, int32_t>;  // of rows and columns

  void find_phases();
  void plan_forward(const int64_t* positions, int64_t count);
  void plan_backward();
  Room room(int64_t samples) const;
  int64_t blocks(int64_t samples) const { return (samples + layout_.samples - 1) / layout_.samples; }
  // How many samples there are in a block.
  int64_t here(int64_t block, int64_t samples) const {
    return std::min(layout_.samples, samples - block * layout_.samples);
  }
  int64_t in_features() const { return int64_t(shape_.inputs) * shape_.height * shape_.width; }
  int64_t out_features() const { return int64_t(shape_.outputs) * shape_.out_height() * shape_.out_width(); }
  PlaneLayout::Images outputs(int64_t samples) const;
  PlaneLayout::Images inputs(const Phase&, int64_t samples) const;
  void pack_inputs(const Team&, const float* x, int64_t samples, bool clears, float* to) const;
  void pack_gradients(const Team&, const float* dy, int64_t samples, float* to) const;
  void forward_in_place(const Team&, const float* values, const float* of_blocks, const float* bias, const float* x,
                        int64_t samples, float* y, Finish finish) const;
  void backward_inputs(const Team&, const float* own, const float* planes, int64_t samples, float* dx) const;
  template <class Compute, class Leave>
  void each_part(const Team&, int64_t samples, int32_t parts, const ConvRows&, Compute compute, Leave leave) const;

  ConvShape shape_;
  PlaneLayout layout_;
  bool trains_;
  bool in_place_;  // the image itself is the long row
  std::vector<Phase> phases_;
  struct Tap {
    int32_t output, input, phase;
    int64_t shift;  // in positions
  };
  std::vector<Tap> taps_;
  ConvRows forward_;   // one row for each output; reads plane input · phases + phase
  ConvRows backward_;  // row phase · inputs + input; reads plane output
};

}  // namespace secateur
