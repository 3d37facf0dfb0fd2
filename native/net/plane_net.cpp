#include "net/plane_net.h"

#include <algorithm>
#include <stdexcept>

#include "net/sparse_chain.h"

namespace secateur {
namespace {

// Multiply-adds of vectors below which another thread costs more than it brings: a barrier follows every layer.
constexpr int64_t kWorkPerThread = 50000;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace

PlaneNet::PlaneNet(int32_t channels, int32_t height, int32_t width, int64_t samples) : samples_(samples) {
  require(channels >= 1 && height >= 1 && width >= 1 && samples >= 1, "an image must not be empty");
  images_.push_back({channels, height, width});
}

const PlaneNet::Image& PlaneNet::read(int input) const {
  require(!finished() && input >= 0 && size_t(input) < images_.size(), "there is no such image");
  return images_[size_t(input)];
}

int PlaneNet::append(Layer layer, int32_t channels, int32_t height, int32_t width) {
  require(height >= 1 && width >= 1, "a layer's output must not be empty");
  layer.slot = int(slots_.size());
  layer.output = int(images_.size());
  if (layer.kind == Kind::convolution || layer.kind == Kind::linear) {
    slots_.push_back({"values", layer.convolution ? layer.convolution->count() : layer.linear->count(), true});
    slots_.push_back({"bias", channels, false});
  }
  layers_.push_back(std::move(layer));
  images_.push_back({channels, height, width});
  return int(images_.size()) - 1;
}

int PlaneNet::add_convolution(int input, const ConvShape& shape, const int64_t* positions, int64_t count, bool relu) {
  const Image& from = read(input);
  require(from.channels == shape.inputs && from.height == shape.height && from.width == shape.width,
          "the convolution does not fit the buffer that it reads");
  Layer layer{Kind::convolution, {input}};
  layer.relu = relu;
  layer.convolution = std::make_unique<PlaneConvolution>(
      shape, positions, count, PlaneConvolution::side_by_side(shape, samples_), false);
  return append(std::move(layer), shape.outputs, shape.out_height(), shape.out_width());
}

int PlaneNet::add_linear(int input, std::shared_ptr<const SparseLayer> linear, bool relu) {
  require(read(input).features() == linear->columns(), "the linear layer does not fit the buffer that it reads");
  Layer layer{Kind::linear, {input}};
  const int32_t rows = linear->rows();
  layer.relu = relu, layer.linear = std::move(linear);
  return append(std::move(layer), rows, 1, 1);
}

int PlaneNet::add_relu(int input) {
  const Image from = read(input);
  return append(Layer{Kind::relu, {input}}, from.channels, from.height, from.width);
}

int PlaneNet::add_sum(int first, int second, bool relu) {
  const Image a = read(first), b = read(second);
  require(a.channels == b.channels && a.height == b.height && a.width == b.width,
          "only outputs of the same shape can be added");
  Layer layer{Kind::sum, {first, second}};
  layer.relu = relu;
  return append(std::move(layer), a.channels, a.height, a.width);
}

int PlaneNet::add_pool(int input, const Pool& p, bool maximum) {
  const Image from = read(input);
  require(p.height == from.height && p.width == from.width && p.kernel_y >= 1 && p.kernel_x >= 1 && p.stride_y >= 1 &&
              p.stride_x >= 1 && p.pad_y >= 0 && p.pad_x >= 0 && 2 * p.pad_y <= p.kernel_y &&
              2 * p.pad_x <= p.kernel_x && p.height + 2 * p.pad_y >= p.kernel_y &&
              p.width + 2 * p.pad_x >= p.kernel_x,
          "a pooling window must fit the padded image, its padding half of it");
  require(p.width <= kWidestPool, "images of more than 2048 columns cannot be pooled");
  Layer layer{Kind::pool, {input}};
  layer.maximum = maximum, layer.pool = p;
  return append(std::move(layer), from.channels, (p.height + 2 * p.pad_y - p.kernel_y) / p.stride_y + 1,
                (p.width + 2 * p.pad_x - p.kernel_x) / p.stride_x + 1);
}

void PlaneNet::finish(int output) {
  read(output);
  require(output > 0, "a network must have a layer");
  output_ = output;
  join_sums();
  place_images();
}

int PlaneNet::root(int image) const {
  while (images_[size_t(image)].lies_in >= 0) image = images_[size_t(image)].lies_in;
  return image;
}

// Whether a convolution can add its outputs to an image that is there already, and nobody needs as it is: then the sum
// costs nothing.
bool PlaneNet::takes_sum(size_t convolution, size_t sum, int other) const {
  const Layer& layer = layers_[convolution];
  if (layer.kind != Kind::convolution || layer.relu || layer.adds || layer.output == other || root(other) == 0)
    return false;
  if (layer.output == output_ || other == output_) return false;
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (int input : layers_[i].inputs) {
      if (input == layer.output && i != sum) return false;
      if (root(input) == root(other) && i != sum && i >= convolution) return false;
    }
    if (layers_[i].output == other && i >= convolution) return false;  // not there yet
  }
  return true;
}

void PlaneNet::join_sums() {
  for (size_t s = 0; s < layers_.size(); ++s) {
    if (layers_[s].kind != Kind::sum || layers_[s].inputs[0] == layers_[s].inputs[1]) continue;
    for (int which = 1; which >= 0; --which) {
      const int added = layers_[s].inputs[size_t(which)], other = layers_[s].inputs[size_t(1 - which)];
      const auto makes = [&](const Layer& layer) { return layer.output == added; };
      const auto found = std::find_if(layers_.begin(), layers_.end(), makes);
      if (found == layers_.end() || !takes_sum(size_t(found - layers_.begin()), s, other)) continue;
      found->adds = true, found->relu = layers_[s].relu, found->output = layers_[s].output;
      images_[size_t(layers_[s].output)].lies_in = other;
      layers_.erase(layers_.begin() + int64_t(s));
      --s;
      break;
    }
  }
}

// Images take the first place that is free while they are needed, so that few addresses are used again and again.
void PlaneNet::place_images() {
  struct Life {
    int image;
    size_t first, last;
    int64_t at, size;
  };
  std::vector<Life> lives(images_.size());
  for (size_t i = 0; i < images_.size(); ++i)
    lives[i] = {int(i), layers_.size(), 0, -1, (images_[i].features() + 15) / 16 * 16};
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto use = [&](int image) {
      Life& life = lives[size_t(root(image))];
      life.first = std::min(life.first, i), life.last = std::max(life.last, i);
    };
    use(layers_[i].output);
    for (int input : layers_[i].inputs) use(input);
  }
  places_.assign(images_.size(), 0);
  std::vector<Life> placed;
  for (const Layer& layer : layers_) {
    Life& life = lives[size_t(root(layer.output))];
    if (life.at >= 0) continue;
    life.at = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (const Life& other : placed) {
        const bool together = other.first <= life.last && life.first <= other.last;
        if (!together || other.at >= life.at + life.size || life.at >= other.at + other.size) continue;
        life.at = other.at + other.size, moved = true;
      }
    }
    placed.push_back(life);
    image_floats_ = std::max(image_floats_, life.at + life.size);
  }
  for (size_t i = 0; i < images_.size(); ++i) places_[i] = std::max<int64_t>(lives[size_t(root(int(i)))].at, 0);
}

int64_t PlaneNet::floats(int64_t samples) const {
  int64_t most = 0;
  for (const Layer& layer : layers_) {
    most = std::max(most, layer.convolution ? layer.convolution->floats(samples, false)
                          : layer.linear    ? (layer.linear->columns() + layer.linear->rows()) *
                                              SparseChain::leading_dimension(samples)
                                            : 0);
  }
  return image_floats_ * samples + most + 16;
}

int PlaneNet::threads_worth(int threads, int64_t samples) const {
  int64_t total = 0;
  for (const Layer& layer : layers_) {
    if (layer.convolution) total += layer.convolution->work(samples);
    if (layer.linear) total += layer.linear->count() / 4 * samples;
  }
  return int(std::clamp<int64_t>(total / kWorkPerThread, 1, std::max(threads, 1)));
}

// One thread's view of a call.
struct PlaneNet::Call {
  const PlaneNet& net;
  const PlaneConvolution::Team team;
  const std::vector<float*>& slots;
  const float* x;
  int64_t samples;
  float *work, *out;

  float* image(int index) const {
    const int root = net.root(index);
    if (root == 0) return const_cast<float*>(x);
    return root == net.root(net.output_) ? out : work + net.places_[size_t(root)] * samples;
  }
  float* behind_images() const { return work + net.image_floats_ * samples; }
};

void PlaneNet::forward(Barrier& barrier, int thread, int threads, const std::vector<float*>& slots, const float* x,
                       int64_t samples, float* work, float* out) const {
  const Call call{*this, {barrier, thread, threads}, slots, x, samples, work, out};
  for (const Layer& layer : layers_) {
    run(layer, call);
    barrier.wait(threads);
  }
}

// One sample as a vector; more of them side by side, feature by feature.
void PlaneNet::run_linear(const Layer& layer, const Call& call, const float* x, float* y) const {
  const SparseLayer& linear = *layer.linear;
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  const float *values = call.slots[size_t(layer.slot)], *bias = call.slots[size_t(layer.slot) + 1];
  const Range rows = linear.forward_rows(call.team.index, call.team.parts);
  if (call.samples == 1)
    return kernels.multiply_vector(linear.forward(values, x, bias, layer.relu, y, 1), int32_t(rows.begin),
                                   int32_t(rows.end));
  const int64_t ld = SparseChain::leading_dimension(call.samples);
  const int32_t tiles = tiles_of(call.samples);
  float *columns = call.behind_images(), *made = columns + linear.columns() * ld;
  linear.pack_input(kernels, x, linear.columns(), call.samples, call.team.index, call.team.parts, {0, tiles}, columns,
                    ld);
  call.team.wait();
  kernels.multiply(linear.forward(values, columns, bias, layer.relu, made, ld), int32_t(rows.begin),
                   int32_t(rows.end), 0, tiles);
  call.team.wait();
  const Range mine = share(linear.rows(), call.team.index, call.team.parts, 16);
  kernels.unpack(made + mine.begin * ld, ld, int32_t(mine.end - mine.begin), call.samples, 0, tiles, y + mine.begin,
                 linear.rows());
}

void PlaneNet::run(const Layer& layer, const Call& call) const {
  const Image &from = images_[size_t(layer.inputs[0])], &to = images_[size_t(layer.output)];
  const float* x = call.image(layer.inputs[0]);
  float* y = call.image(layer.output);
  const PlaneKernels& kernels = SECATEUR_TABLE(plane_kernels);
  if (layer.kind == Kind::convolution) {
    layer.convolution->forward(call.team, call.slots[size_t(layer.slot)], call.slots[size_t(layer.slot) + 1], x,
                               call.samples, call.behind_images(), y, {layer.relu, layer.adds, true});
  } else if (layer.kind == Kind::linear) {
    run_linear(layer, call, x, y);
  } else if (layer.kind == Kind::pool) {
    const int64_t x_plane = int64_t(from.height) * from.width, y_plane = int64_t(to.height) * to.width;
    const Range planes = share(call.samples * to.channels, call.team.index, call.team.parts);
    for (int64_t p = planes.begin; p < planes.end; ++p)
      SECATEUR_TABLE(pool_kernels).pool_rows(layer.pool, layer.maximum, x + p * x_plane, to.height, to.width, y + p * y_plane);
  } else {
    const Range mine = share(call.samples * to.features(), call.team.index, call.team.parts, 16);
    const float* other = layer.kind == Kind::sum ? call.image(layer.inputs[1]) + mine.begin : nullptr;
    kernels.add(mine.end - mine.begin, x + mine.begin, other, layer.kind == Kind::relu || layer.relu, y + mine.begin);
  }
}

}  // namespace secateur
