// A network for few samples, for latency: images lie as torch has them, and vectors run along their positions instead
// of over samples (planes/plane_convolution.h). Forward only; normalisations are folded into the weights before it.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/plane_kernels.h"
#include "planes/plane_convolution.h"
#include "layers/sparse_layer.h"
#include "net/slot.h"

namespace secateur {

class PlaneNet {
 public:
  // `samples`: of the batches that it is for; others give the same numbers, more slowly.
  PlaneNet(int32_t channels, int32_t height, int32_t width, int64_t samples);
  PlaneNet(const PlaneNet&) = delete;

  // Each adds a layer that reads the image `input` and returns the number of the image that it makes.
  int add_convolution(int input, const ConvShape& shape, const int64_t* positions, int64_t count, bool relu);
  int add_linear(int input, std::shared_ptr<const SparseLayer> layer, bool relu);
  int add_relu(int input);
  int add_sum(int first, int second, bool relu);
  int add_pool(int input, const Pool& pool, bool maximum);
  void finish(int output);

  struct Image {
    int32_t channels, height, width;
    int lies_in = -1;  // the image that it is added to, where it takes its place

    int64_t features() const { return int64_t(channels) * height * width; }
  };
  const Image& image(int index) const { return images_.at(size_t(index)); }
  const std::vector<Slot>& slots() const { return slots_; }
  const Image& input() const { return images_.front(); }
  const Image& output() const { return images_.at(size_t(output_)); }
  bool finished() const { return output_ >= 0; }
  // Of the workspace, for so many samples.
  int64_t floats(int64_t samples) const;
  int threads_worth(int threads, int64_t samples) const;

  // Run by every thread of a team.
  void forward(Barrier&, int thread, int threads, const std::vector<float*>& slots, const float* x, int64_t samples,
               float* work, float* out) const;

 private:
  enum class Kind { convolution, linear, relu, sum, pool };
  struct Layer {
    Kind kind;
    std::vector<int> inputs;
    int output = 0, slot = 0;
    bool relu = false, maximum = false, adds = false;
    Pool pool{};
    std::unique_ptr<PlaneConvolution> convolution;
    std::shared_ptr<const SparseLayer> linear;
  };
  struct Call;

  const Image& read(int input) const;
  int append(Layer layer, int32_t channels, int32_t height, int32_t width);
  void join_sums();
  bool takes_sum(size_t convolution, size_t sum, int other) const;
  int root(int image) const;
  void place_images();
  void run(const Layer&, const Call&) const;
  void run_linear(const Layer&, const Call&, const float* x, float* y) const;

  int64_t samples_;
  std::vector<Image> images_;
  std::vector<Layer> layers_;
  std::vector<Slot> slots_;
  std::vector<int64_t> places_;  // where each image lies, in floats for one sample
  int64_t image_floats_ = 0;
  int output_ = -1;
};

}  // namespace secateur
