#include "net/sample_net.h"

#include <algorithm>
#include <stdexcept>

namespace secateur {
namespace {

// Multiply-adds of vectors below which another thread costs more than it brings.
constexpr int64_t kWorkPerThread = 100000;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Vectors of 16 positions, rows of the input one after the other, from the first output to the last.
int32_t vectors_of(const ConvShape& s, int64_t pitch) {
  const int64_t wanted = int64_t(s.out_height() - 1) * s.stride_y * pitch + int64_t(s.out_width() - 1) * s.stride_x + 1;
  return int32_t((wanted + 15) / 16);
}

void pool_channel(const Pool& p, bool maximum, const float* x, int64_t x_pitch, const SampleNet::Image& to, float* y) {
  for (int32_t row = 0; row < to.height; ++row) {
    for (int32_t column = 0; column < to.width; ++column) {
      const int32_t y0 = row * p.stride_y - p.pad_y, x0 = column * p.stride_x - p.pad_x;
      const int32_t top = std::max(0, y0), bottom = std::min(p.height, y0 + p.kernel_y);
      const int32_t left = std::max(0, x0), right = std::min(p.width, x0 + p.kernel_x);
      float best = x[top * x_pitch + left], sum = 0.0f;
      for (int32_t i = top; i < bottom; ++i) {
        for (int32_t j = left; j < right; ++j) {
          const float v = x[i * x_pitch + j];
          best = best >= v || best != best ? best : v;
          sum += v;
        }
      }
      const int32_t places = p.counts_padding ? p.kernel_y * p.kernel_x : (bottom - top) * (right - left);
      y[row * to.pitch + column] = maximum ? best : sum / float(places);
    }
  }
}

}  // namespace

SampleNet::SampleNet(int32_t channels, int32_t height, int32_t width) {
  require(channels >= 1 && height >= 1 && width >= 1, "an image must not be empty");
  images_.push_back({channels, height, width, {}});
}

SampleNet::Image& SampleNet::last(int input) {
  require(!finished_ && input == int(images_.size()) - 1, "a layer must follow the last one");
  return images_.back();
}

int SampleNet::append(Layer layer, int32_t channels, int32_t height, int32_t width) {
  require(height >= 1 && width >= 1, "a layer's output must not be empty");
  layer.slot = int(slots_.size());
  if (layer.kind == Kind::convolution || layer.kind == Kind::linear) {
    slots_.push_back({"values", layer.convolution ? layer.convolution->count() : layer.linear->count(), true});
    slots_.push_back({"bias", channels, false});
  }
  layers_.push_back(std::move(layer));
  images_.push_back({channels, height, width, {}});
  return int(images_.size()) - 1;
}

int SampleNet::add_convolution(int input, const ConvShape& shape, const int64_t* positions, int64_t count, bool relu) {
  Image& from = last(input);
  require(from.channels == shape.inputs && from.height == shape.height && from.width == shape.width,
          "the convolution does not fit the buffer that it reads");
  Layer layer{Kind::convolution};
  layer.relu = relu;
  layer.convolution = std::make_unique<ConvLayer>(shape, positions, count, false);
  from.halo.cover(layer.convolution->input_halo());
  return append(std::move(layer), shape.outputs, shape.out_height(), shape.out_width());
}

int SampleNet::add_linear(int input, std::shared_ptr<const SparseLayer> linear, bool relu) {
  require(last(input).features() == linear->columns(), "the linear layer does not fit the buffer that it reads");
  Layer layer{Kind::linear};
  const int32_t rows = linear->rows();
  layer.relu = relu, layer.linear = std::move(linear);
  return append(std::move(layer), rows, 1, 1);
}

int SampleNet::add_relu(int input) {
  const Image from = last(input);
  return append(Layer{Kind::relu}, from.channels, from.height, from.width);
}

int SampleNet::add_pool(int input, const Pool& p, bool maximum) {
  const Image from = last(input);
  require(p.height == from.height && p.width == from.width && p.kernel_y >= 1 && p.kernel_x >= 1 && p.stride_y >= 1 &&
              p.stride_x >= 1 && p.pad_y >= 0 && p.pad_x >= 0 && 2 * p.pad_y <= p.kernel_y &&
              2 * p.pad_x <= p.kernel_x && p.height + 2 * p.pad_y >= p.kernel_y &&
              p.width + 2 * p.pad_x >= p.kernel_x,
          "a pooling window must fit the padded image, its padding half of it");
  Layer layer{Kind::pool};
  layer.maximum = maximum, layer.pool = p;
  return append(std::move(layer), from.channels, (p.height + 2 * p.pad_y - p.kernel_y) / p.stride_y + 1,
                (p.width + 2 * p.pad_x - p.kernel_x) / p.stride_x + 1);
}

void SampleNet::finish(int output) {
  last(output);
  finished_ = true;
  for (size_t i = 0; i < images_.size(); ++i) {
    Image& m = images_[i];
    m.pitch = m.width + m.halo.left + m.halo.right;
    m.channel = (m.height + m.halo.top + m.halo.bottom) * m.pitch;
    m.at = floats_ + m.halo.top * m.pitch + m.halo.left;
    // Vectors run over the end of the last channel, by less than one of them and the kernel's reach.
    floats_ += m.channels * m.channel + 64 + m.channel;
    if (i == layers_.size() || layers_[i].kind != Kind::convolution) continue;
    layers_[i].convolution->place_sample(m.channel, m.pitch);
    layers_[i].own = floats_ = (floats_ + 15) / 16 * 16;
    const int64_t plane = 16 * int64_t(vectors_of(layers_[i].convolution->shape(), m.pitch));
    floats_ += layers_[i].convolution->floats() + images_[i + 1].channels * plane + 64;
  }
}

int SampleNet::threads_worth(int threads) const {
  int64_t total = 0;
  for (const Layer& layer : layers_) {
    if (layer.convolution) total += layer.convolution->work() / 16;
    if (layer.linear) total += layer.linear->count() / 4;
  }
  return int(std::clamp<int64_t>(total / kWorkPerThread, 1, std::max(threads, 1)));
}

// Every position of the input's rows is computed, its border included, as one long row; those that exist are copied.
void SampleNet::convolve(const Layer& layer, const Image& from, const Image& to, Barrier& barrier, int thread,
                         int threads, const std::vector<float*>& slots, float* work) const {
  const ConvShape& s = layer.convolution->shape();
  float* own = work + layer.own;
  const int32_t vectors = vectors_of(s, from.pitch);
  const int64_t plane = 16 * int64_t(vectors);
  float* y = own + layer.convolution->floats();
  layer.convolution->forward_sample(SECATEUR_TABLE(conv_kernels), slots[size_t(layer.slot)], own,
                                    slots[size_t(layer.slot) + 1], layer.relu, work + from.at, y, plane, vectors,
                                    barrier, thread, threads);
  barrier.wait(threads);
  const Range channels = share(to.channels, thread, threads);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    for (int32_t row = 0; row < to.height; ++row) {
      const float* source = y + c * plane + row * s.stride_y * from.pitch;
      float* target = work + to.at + c * to.channel + row * to.pitch;
      for (int32_t i = 0; i < to.width; ++i) target[i] = source[i * s.stride_x];
    }
  }
}

void SampleNet::forward(Barrier& barrier, int thread, int threads, const std::vector<float*>& slots, const float* x,
                        float* work, float* out) const {
  const Image& first = images_.front();
  const Range inputs = share(first.channels, thread, threads);
  for (int64_t c = inputs.begin; c < inputs.end; ++c) {
    for (int32_t row = 0; row < first.height; ++row)
      std::copy_n(x + (c * first.height + row) * first.width, first.width,
                  work + first.at + c * first.channel + row * first.pitch);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    barrier.wait(threads);
    const Layer& layer = layers_[i];
    const Image &from = images_[i], &to = images_[i + 1];
    const Range channels = share(to.channels, thread, threads);
    if (layer.kind == Kind::convolution) {
      convolve(layer, from, to, barrier, thread, threads, slots, work);
    } else if (layer.kind == Kind::linear) {
      const Product product = layer.linear->forward(slots[size_t(layer.slot)], work + from.at,
                                                    slots[size_t(layer.slot) + 1], layer.relu, work + to.at, 1);
      const Range rows = layer.linear->forward_rows(thread, threads);
      SECATEUR_TABLE(sparse_kernels).multiply_vector(product, int32_t(rows.begin), int32_t(rows.end));
    } else {
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        const float* source = work + from.at + c * from.channel;
        float* target = work + to.at + c * to.channel;
        if (layer.kind == Kind::pool) {
          pool_channel(layer.pool, layer.maximum, source, from.pitch, to, target);
        } else {
          for (int32_t row = 0; row < to.height; ++row) {
            for (int32_t j = 0; j < to.width; ++j) {
              const float v = source[row * from.pitch + j];
              target[row * to.pitch + j] = v < 0.0f ? 0.0f : v;
            }
          }
        }
      }
    }
  }
  barrier.wait(threads);
  const Image& found = images_.back();
  const Range outputs = share(found.channels, thread, threads);
  for (int64_t c = outputs.begin; c < outputs.end; ++c) {
    for (int32_t row = 0; row < found.height; ++row)
      std::copy_n(work + found.at + c * found.channel + row * found.pitch, found.width,
                  out + (c * found.height + row) * found.width);
  }
}

}  // namespace secateur
