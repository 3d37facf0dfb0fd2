// A chain of layers for one sample, for latency: vectors run along the positions of an image instead of over samples.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/plane_kernels.h"
#include "layers/conv_layer.h"
#include "layers/sparse_layer.h"
#include "net/slot.h"

namespace secateur {

class SampleNet {
 public:
  SampleNet(int32_t channels, int32_t height, int32_t width);
  SampleNet(const SampleNet&) = delete;

  // Each adds a layer behind the last one, whose number must be `input`, and returns the number of its output.
  int add_convolution(int input, const ConvShape& shape, const int64_t* positions, int64_t count, bool relu);
  int add_linear(int input, std::shared_ptr<const SparseLayer> layer, bool relu);
  int add_relu(int input);
  int add_pool(int input, const Pool& pool, bool maximum);
  void finish(int output);

  struct Image {
    int32_t channels, height, width;
    Halo halo;
    int64_t at = 0, channel = 0, pitch = 0;  // where its first position lies, and strides, in floats

    int64_t features() const { return int64_t(channels) * height * width; }
  };
  const Image& image(int index) const { return images_.at(size_t(index)); }
  const std::vector<Slot>& slots() const { return slots_; }
  const Image& output() const { return images_.back(); }
  int64_t floats() const { return floats_; }
  bool finished() const { return finished_; }
  // How many of the threads offered one sample is worth.
  int threads_worth(int threads) const;

  // Run by every thread of a team. `work`: floats(), zero when new.
  void forward(Barrier&, int thread, int threads, const std::vector<float*>& slots, const float* x, float* work,
               float* out) const;

 private:
  enum class Kind { convolution, linear, relu, pool };
  struct Layer {
    Kind kind;
    int slot = 0;
    bool relu = false, maximum = false;
    Pool pool{};
    std::unique_ptr<ConvLayer> convolution;
    std::shared_ptr<const SparseLayer> linear;
    int64_t own = 0;  // in the workspace
  };

  Image& last(int input);
  int append(Layer layer, int32_t channels, int32_t height, int32_t width);
  void convolve(const Layer&, const Image& from, const Image& to, Barrier&, int thread, int threads,
                const std::vector<float*>& slots, float* work) const;

  std::vector<Image> images_;  // image i is the input of layer i
  std::vector<Layer> layers_;
  std::vector<Slot> slots_;
  int64_t floats_ = 0;
  bool finished_ = false;
};

}  // namespace secateur
