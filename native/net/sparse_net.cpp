#include "net/sparse_net.h"

#include <stdexcept>
#include <string>

#include "net/net_nodes.h"
#include "net/sparse_chain.h"

namespace secateur {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

// Multiply-adds, 16 samples each, below which another thread costs more than it brings: there are a few dozen barriers
// in a call.
constexpr int64_t kWorkPerThread = 200000;
// The same for a chain of linear layers, which has three.
constexpr int64_t kWorkPerThreadOfChain = 6000;
// Of one part of a large batch: 128 samples, for which a weight's gradient is summed in registers.
constexpr int32_t kTilesOfPart = 8;

NetPlace flat_place(const NetBuffer& b, int64_t ld, int64_t* floats) {
  const NetPlace place{*floats, 16, int64_t(b.height) * b.width * ld, b.width * ld, ld};
  *floats += b.features() * ld;
  return place;
}

NetPlace tiled_place(const NetBuffer& b, const Halo& halo, int32_t tiles, int64_t* floats) {
  const int64_t row = int64_t(b.width + halo.left + halo.right) * 16;
  const int64_t channel = (b.height + halo.top + halo.bottom) * row;
  const NetPlace place{*floats + halo.top * row + halo.left * 16, b.channels * channel, channel, row, 16};
  *floats += place.tile * tiles;
  return place;
}

// Where each feature of a row-major sample goes, in groups of 16 features; `step`: floats to a unit of the target.
std::vector<PackGroup> pack_groups(const NetBuffer& b, const NetPlace& place) {
  std::vector<PackGroup> groups;
  for (int64_t first = 0; first < b.features(); first += 16) {
    PackGroup group{int32_t(first), int32_t(std::min<int64_t>(16, b.features() - first)), {}};
    for (int32_t j = 0; j < 16; ++j) {
      const int64_t f = first + j, area = int64_t(b.height) * b.width;
      const int64_t at = f / area * place.channel + f % area / b.width * place.row + f % b.width * place.step;
      group.target[j] = j < group.count ? int32_t(at / place.step) : -1;
    }
    groups.push_back(group);
  }
  return groups;
}

}  // namespace

SparseNet::SparseNet(int32_t channels, int32_t height, int32_t width) { add_buffer(channels, height, width); }

NetBuffer& SparseNet::buffer(int index) {
  require(index >= 0 && size_t(index) < buffers_.size(), "no such buffer: " + std::to_string(index));
  require(output_ < 0, "the network is finished already");
  return buffers_[size_t(index)];
}

int SparseNet::add_buffer(int32_t channels, int32_t height, int32_t width) {
  require(channels >= 1 && height >= 1 && width >= 1, "a layer's output must not be empty");
  NetBuffer made;
  made.channels = channels, made.height = height, made.width = width;
  buffers_.push_back(made);
  return int(buffers_.size()) - 1;
}

int SparseNet::read(int input) {
  NetBuffer& b = buffer(input);
  require(!b.taken, "the input of a linear layer must have no other reader");
  ++b.readers;
  return input;
}

template <class Node, class... Rest>
int SparseNet::append(std::vector<int> inputs, int output, const std::vector<Slot>& slots, Rest&&... rest) {
  nodes_.push_back(std::make_unique<Node>(std::move(inputs), output, int(slots_.size()), std::forward<Rest>(rest)...));
  slots_.insert(slots_.end(), slots.begin(), slots.end());
  return output;
}

int SparseNet::lanes(int input) {
  const int found = buffer(input).flat ? add_copy(input, false) : input;
  buffer(found).fixed = true;
  return found;
}

int SparseNet::add_convolution(int input, const ConvShape& shape, const int64_t* positions, int64_t count, bool relu) {
  input = lanes(input);
  const NetBuffer& b = buffer(input);
  require(b.channels == shape.inputs && b.height == shape.height && b.width == shape.width,
          "the convolution does not fit the buffer that it reads");
  ConvLayer layer(shape, positions, count);
  buffer(read(input)).halo.cover(layer.input_halo());
  const int output = add_buffer(shape.outputs, shape.out_height(), shape.out_width());
  buffer(output).fixed = true;
  buffer(output).gradient_halo = layer.gradient_halo();
  const std::vector<Slot> slots{{"values", layer.count(), true}, {"bias", shape.outputs, false}};
  return append<ConvolutionNode>({input}, output, slots, std::move(layer), relu);
}

int SparseNet::add_linear(int input, std::shared_ptr<const SparseLayer> layer, bool relu, bool full) {
  require(buffer(input).features() == layer->columns(), "the linear layer does not fit the buffer that it reads");
  if (!buffer(input).flat && (buffer(input).fixed || buffer(input).readers)) input = add_copy(input, false);
  require(buffer(input).readers == 0, "the input of a linear layer must have no other reader");
  read(input);
  buffer(input).flat = buffer(input).taken = true;
  const int output = add_buffer(layer->rows(), 1, 1);
  buffer(output).flat = true;
  const std::vector<Slot> slots{{"values", layer->count(), true}, {"bias", layer->rows(), false}};
  return append<LinearNode>({input}, output, slots, std::move(layer), relu, full);
}

int SparseNet::add_norm(int input, double eps, double momentum, bool relu) {
  const NetBuffer b = buffer(read(input));
  const std::vector<Slot> slots{{"weight", b.channels, false},
                                {"bias", b.channels, false},
                                {"running_mean", b.channels, true},
                                {"running_var", b.channels, true}};
  return append<NormNode>({input}, add_buffer(b.channels, b.height, b.width), slots, b, eps, momentum, relu);
}

int SparseNet::add_copy(int input, bool relu) {
  const NetBuffer b = buffer(read(input));
  return append<CopyNode>({input}, add_buffer(b.channels, b.height, b.width), {}, b, relu);
}

int SparseNet::add_sum(int first, int second, bool relu) {
  const NetBuffer a = buffer(read(first)), b = buffer(read(second));
  require(a.channels == b.channels && a.height == b.height && a.width == b.width,
          "only outputs of the same shape can be added");
  return append<SumNode>({first, second}, add_buffer(a.channels, a.height, a.width), {}, a, relu);
}

int SparseNet::add_pool(int input, const Pool& p, bool maximum) {
  const NetBuffer b = buffer(read(input));
  for (int32_t value : {p.kernel_y, p.kernel_x, p.stride_y, p.stride_x})
    require(value >= 1, "the sizes of a pooling must be at least 1, got " + std::to_string(value));
  require(p.height == b.height && p.width == b.width && p.pad_y >= 0 && p.pad_x >= 0 && 2 * p.pad_y <= p.kernel_y &&
              2 * p.pad_x <= p.kernel_x && (!maximum || p.kernel_y * p.kernel_x <= 256) &&
              p.height + 2 * p.pad_y >= p.kernel_y && p.width + 2 * p.pad_x >= p.kernel_x,
          "a pooling window must fit the padded image, its padding half of it, and the largest have 256 places");
  const int output = add_buffer(b.channels, (p.height + 2 * p.pad_y - p.kernel_y) / p.stride_y + 1,
                                (p.width + 2 * p.pad_x - p.kernel_x) / p.stride_x + 1);
  const NetBuffer made = buffer(output);
  return append<PoolNode>({input}, output, {}, made, p, maximum);
}

void SparseNet::finish(int output, bool flat) {
  if (buffer(output).readers || output == 0 || (flat && !buffer(output).flat && buffer(output).fixed))
    output = add_copy(output, false);
  if (flat) buffer(output).flat = true;
  std::vector<bool> written(buffers_.size(), false);
  for (size_t i = nodes_.size(); i-- > 0;) {
    for (int input : nodes_[i]->inputs()) {
      nodes_[i]->adds.push_back(written[size_t(input)]);
      written[size_t(input)] = true;
    }
  }
  for (size_t b = 0; b < buffers_.size(); ++b)
    require(written[b] || int(b) == output, "every layer must lead to the output");
  output_ = output;
  join_pooling();
  join_linear();
  for (const auto& node : nodes_) {
    prepares_ = prepares_ || node->prepares_forward();
    const int input = node->inputs()[0];
    NetBuffer &from = buffers_[size_t(input)], &to = buffers_[size_t(node->output())];
    if (node->in_place() && input != 0 && from.readers == 1 && from.flat == to.flat) to.gradient_of = input;
  }
  const NetLayout one = layout(1);
  for (auto& node : nodes_) node->place(one);  // after this the layout knows how many floats each node needs
  input_groups_ = pack_groups(buffers_[0], one.values[0]);
  for (const auto& node : nodes_) {
    const auto* linear = dynamic_cast<const LinearNode*>(node.get());
    if (linear && linear->inputs()[0] == 0) input_groups_ = linear->layer().input_groups();  // what it reads
  }
  output_groups_ = pack_groups(this->output(), one.gradients[size_t(output)]);
}

// A largest-of pooling that is the only reader of a convolution becomes part of it.
void SparseNet::join_pooling() {
  for (size_t i = nodes_.size(); i-- > 0;) {
    const auto* pool = dynamic_cast<const PoolNode*>(nodes_[i].get());
    if (!pool || !pool->covers_its_input() || buffers_[size_t(pool->inputs()[0])].readers != 1) continue;
    for (auto& node : nodes_) {
      auto* convolution = dynamic_cast<ConvolutionNode*>(node.get());
      if (!convolution || convolution->output() != pool->inputs()[0] || !convolution->takes_pooling()) continue;
      buffers_[size_t(convolution->output())].passing = true;
      convolution->join(*pool);
      nodes_.erase(nodes_.begin() + int64_t(i));
      break;
    }
  }
}

// Between two linear layers the second one lets no gradient through where the first one's ReLU was zero.
void SparseNet::join_linear() {
  chain_ = true;
  for (const auto& node : nodes_) {
    auto* linear = dynamic_cast<LinearNode*>(node.get());
    chain_ = chain_ && linear;
    if (!linear) continue;
    for (const auto& other : nodes_) {
      auto* before = dynamic_cast<LinearNode*>(other.get());
      if (before && before->output() == linear->inputs()[0]) linear->join(*before);
    }
  }
}

int SparseNet::parts(int64_t samples) const {
  return chain_ ? std::max(1, (tiles_of(samples) + kTilesOfPart / 2) / kTilesOfPart) : 1;
}

NetLayout SparseNet::layout(int64_t samples, int parts) const {
  require(output_ >= 0, "the network is not finished");
  NetLayout made;
  made.samples = samples;
  made.parts = parts;
  made.ld = SparseChain::leading_dimension(samples);
  made.tiles = tiles_of(samples);
  for (const NetBuffer& b : buffers_)
    made.values.push_back(b.passing ? NetPlace{}
                          : b.flat  ? flat_place(b, made.ld, &made.floats)
                                    : tiled_place(b, b.halo, made.tiles, &made.floats));
  for (size_t i = 0; i < nodes_.size(); ++i) {
    made.own.push_back(made.floats);
    made.floats += (nodes_[i]->floats(made) + 31) / 16 * 16;
  }
  made.forward_floats = made.floats;
  for (const NetBuffer& b : buffers_)
    made.gradients.push_back(b.gradient_of >= 0 ? made.gradients[size_t(b.gradient_of)]
                             : b.flat           ? flat_place(b, made.ld, &made.floats)
                                                : tiled_place(b, b.gradient_halo, made.tiles, &made.floats));
  return made;
}

int SparseNet::threads_worth(int threads, int64_t samples) const {
  int64_t total = 2 * (input().features() + output().features());  // packing
  for (const auto& node : nodes_) total += node->work();
  if (chain_) total -= 2 * (input().features() + output().features());
  const int64_t tiles = tiles_of(samples);
  const int64_t worth = chain_ ? kWorkPerThreadOfChain : kWorkPerThread;
  return int(std::clamp<int64_t>(total * tiles / worth, 1, std::max(threads, 1)));
}

Grid SparseNet::grid(int threads, const NetLayout&) const { return Grid::of(threads); }

bool SparseNet::streams(int slot) const {
  const NetNode* owner = nullptr;
  for (const auto& node : nodes_)
    if (node->slot() <= slot) owner = node.get();
  return owner && owner->streams();
}

int64_t SparseNet::full_bytes() const {
  int64_t bytes = 0;
  for (const auto& node : nodes_) {
    const auto* linear = dynamic_cast<const LinearNode*>(node.get());
    bytes += linear ? linear->full_bytes() : 0;
  }
  return bytes;
}

void SparseNet::pack(const NetCall& call, const float* x, const NetBuffer& b, const std::vector<PackGroup>& groups,
                     const Planes& to) const {
  const Range mine = share(int64_t(groups.size()), call.row_part(), call.grid.row_parts), tiles = call.tiles();
  for (int64_t t = tiles.begin; t < tiles.end; ++t)
    call.linear.pack(x + t * 16 * b.features(), b.features(), call.layout.samples - t * 16, groups.data(), mine.begin,
                     mine.end, 0, 1, to.at + t * to.tile, to.step);
}

void SparseNet::unpack(const NetCall& call, const NetBuffer& b, const Planes& from, float* out) const {
  // In a chain a thread has computed its tiles itself, and has not waited for those of the others.
  const Range mine = share(b.features(), call.row_part(), call.grid.row_parts, 16), tiles = call.tiles();
  for (int64_t t = tiles.begin; t < tiles.end; ++t)
    call.linear.unpack(from.at + t * from.tile + mine.begin * from.step, from.step, int32_t(mine.end - mine.begin),
                       call.layout.samples - t * 16, 0, 1, out + t * 16 * b.features() + mine.begin, b.features());
}

void SparseNet::pack_input(const NetCall& call, const float* x) const {
  pack(call, x, input(), input_groups_, call.value(0));
}

void SparseNet::pack_output_gradient(const NetCall& call, const float* dy) const {
  pack(call, dy, output(), output_groups_, call.gradient(output_));
}

void SparseNet::unpack_output(const NetCall& call, float* out) const {
  unpack(call, output(), call.value(output_), out);
}

void SparseNet::unpack_input_gradient(const NetCall& call, float* out) const {
  unpack(call, input(), call.gradient(0), out);
}

void SparseNet::pass(const NetCall& call) const {
  if (!chain_ || call.grid.row_parts > 1) call.wait();
}

void SparseNet::forward(const NetCall& call) const {
  for (size_t i = 0; i < nodes_.size() && !call.part; ++i)
    nodes_[i]->prepare_forward(call, call.work + call.layout.own[i]);
  if (prepares_ && !call.part) {
    call.wait();
  } else {
    pass(call);
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    nodes_[i]->forward(call, call.work + call.layout.own[i]);
    pass(call);
  }
}

void SparseNet::index_gradients(bool input_gradient, int threads) const {
  for (const auto& node : nodes_) node->index_gradients(input_gradient, threads);
}

void SparseNet::prepare_backward(const NetCall& call) const {
  for (size_t i = 0; i < nodes_.size(); ++i) nodes_[i]->prepare(call, call.work + call.layout.own[i]);
}

void SparseNet::backward(const NetCall& call) const {
  for (size_t i = nodes_.size(); i-- > 0;) {
    nodes_[i]->backward(call, call.work + call.layout.own[i]);
    if (!chain_) nodes_[i]->gradients(call, call.work + call.layout.own[i]);
    pass(call);
  }
  if (!chain_) return;
  call.wait();  // the weights' gradients are sums over all samples
  for (size_t i = 0; i < nodes_.size(); ++i) nodes_[i]->gradients(call, call.work + call.layout.own[i]);
}

}  // namespace secateur
