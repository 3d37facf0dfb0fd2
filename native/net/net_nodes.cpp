#include "net/net_nodes.h"

#include <cmath>

namespace secateur {

namespace {

Planes in_work(float* work, const NetPlace& p) { return {work + p.at, p.tile, p.channel, p.row, p.step}; }

}  // namespace

Planes NetCall::value(int buffer) const { return in_work(work, layout.values[size_t(buffer)]); }
Planes NetCall::gradient(int buffer) const { return in_work(work, layout.gradients[size_t(buffer)]); }

Extent NetCall::extent(const NetBuffer& b) const {
  return {layout.tiles, b.height, b.width, int32_t(layout.samples - int64_t(layout.tiles - 1) * 16)};
}

// ------------------------------------------------------------------ convolution: slots weight, bias
void ConvolutionNode::place(const NetLayout& layout) {
  const NetPlace x = layout.values[size_t(inputs_[0])], dy = layout.gradients[size_t(output_)];
  layer_.place(x.channel, x.row, dy.channel, dy.row);
}

void ConvolutionNode::prepare_forward(const NetCall& call, float* own) const {
  layer_.arrange_forward(call.split, call.slots[size_t(slot_)], call.thread, call.threads, own);
}

void ConvolutionNode::forward(const NetCall& call, float* own) const {
  if (pool_) return forward_pooled(call, own);
  layer_.forward(call.convolution, call.split, call.slots[size_t(slot_)], own, call.slots[size_t(slot_) + 1], relu_,
                 call.value(inputs_[0]), call.value(output_), call.layout.tiles, call.thread, call.threads);
}

void ConvolutionNode::prepare(const NetCall& call, float* own) const {
  if (wants_input_gradient(call))
    layer_.arrange_backward(call.split, call.slots[size_t(slot_)], call.thread, call.threads, own);
}

void ConvolutionNode::backward(const NetCall& call, float* own) const {
  if (pool_) return backward_pooled(call, own);
  const Planes dy = call.gradient(output_);
  const ConvShape& s = layer_.shape();
  const Extent extent{call.layout.tiles, s.out_height(), s.out_width(), 16};
  const Range channels = share(s.outputs, call.thread, call.threads);
  if (relu_) {
    const Planes y = call.value(output_);
    for (int64_t c = channels.begin; c < channels.end; ++c)
      call.plane.relu_gradient(extent, channel_of(y, c), channel_of(dy, c), channel_of(dy, c), false);
    call.wait();
  }
  if (float* out = call.slot_gradient(slot_))
    layer_.gradient(call.convolution, call.split, own, call.value(inputs_[0]), dy, call.layout.tiles, call.barrier,
                    call.thread, call.threads, out);
  if (float* out = call.slot_gradient(slot_ + 1)) {
    for (int64_t c = channels.begin; c < channels.end; ++c)
      out[c] = float(call.plane.total(extent, channel_of(dy, c)));
  }
  if (wants_input_gradient(call))
    layer_.backward(call.convolution, call.split, own, dy, call.gradient(inputs_[0]), adds[0], call.layout.tiles,
                    call.thread, call.threads);
}

// ------------------------------------------------------------------ batch normalisation
Norm NormNode::norm(const NetCall& call, const float* own, int64_t c) const {
  const float* gamma = call.slots[size_t(slot_)];
  const float* beta = call.slots[size_t(slot_) + 1];
  const float mean = own[2 * c], scale = own[2 * c + 1] * (gamma ? gamma[c] : 1.0f);
  return {scale, (beta ? beta[c] : 0.0f) - mean * scale, mean, relu_};
}

void NormNode::forward(const NetCall& call, float* own) const {
  const Planes x = call.value(inputs_[0]), y = call.value(output_);
  const Extent extent = call.extent(buffer_);
  float* running_mean = call.slots[size_t(slot_) + 2];
  float* running_variance = call.slots[size_t(slot_) + 3];
  const double count = double(buffer_.height) * buffer_.width * double(call.layout.samples);
  const Range channels = share(buffer_.channels, call.thread, call.threads, 16);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    double mean = running_mean[c], variance = running_variance[c];
    if (call.training) {
      call.plane.moments(extent, channel_of(x, c), &mean, &variance);
      running_mean[c] = float((1.0 - momentum_) * running_mean[c] + momentum_ * mean);
      running_variance[c] =
          float((1.0 - momentum_) * running_variance[c] + momentum_ * variance * (count / (count - 1.0)));
    }
    own[2 * c] = float(mean);
    own[2 * c + 1] = float(1.0 / std::sqrt(variance + eps_));
    call.plane.normalise(extent, norm(call, own, c), channel_of(x, c), channel_of(y, c));
  }
}

void NormNode::backward(const NetCall& call, float* own) const {
  const Planes x = call.value(inputs_[0]), dy = call.gradient(output_), dx = call.gradient(inputs_[0]);
  const Extent extent = call.extent(buffer_);
  const double count = double(buffer_.height) * buffer_.width * double(call.layout.samples);
  const Range channels = share(buffer_.channels, call.thread, call.threads, 16);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    const Norm n = norm(call, own, c);
    const double root = own[2 * c + 1];
    double sum, product;
    call.plane.norm_sums(extent, n, channel_of(x, c), channel_of(dy, c), &sum, &product);
    if (float* out = call.slot_gradient(slot_)) out[c] = float(product * root);
    if (float* out = call.slot_gradient(slot_ + 1)) out[c] = float(sum);
    if (!wants_input_gradient(call)) continue;
    const double rate = n.scale;
    const NormGradient g = call.training ? NormGradient{n.scale, float(-rate * root * root * product / count),
                                                        float(-rate * sum / count)}
                                         : NormGradient{n.scale, 0.0f, 0.0f};
    call.plane.norm_gradient(extent, n, g, channel_of(x, c), channel_of(dy, c), channel_of(dx, c), adds[0]);
  }
}

// ------------------------------------------------------------------ copy, sum
void CopyNode::forward(const NetCall& call, float*) const {
  const Planes x = call.value(inputs_[0]), y = call.value(output_);
  const Range channels = share(buffer_.channels, call.thread, call.threads);
  for (int64_t c = channels.begin; c < channels.end; ++c)
    call.plane.copy(call.extent(buffer_), channel_of(x, c), channel_of(y, c), relu_, false);
}

void CopyNode::backward(const NetCall& call, float*) const {
  if (!wants_input_gradient(call)) return;
  const Planes y = call.value(output_), dy = call.gradient(output_), dx = call.gradient(inputs_[0]);
  const Range channels = share(buffer_.channels, call.thread, call.threads);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    if (relu_) {
      call.plane.relu_gradient(call.extent(buffer_), channel_of(y, c), channel_of(dy, c), channel_of(dx, c), adds[0]);
    } else {
      call.plane.copy(call.extent(buffer_), channel_of(dy, c), channel_of(dx, c), false, adds[0]);
    }
  }
}

void SumNode::forward(const NetCall& call, float*) const {
  const Planes a = call.value(inputs_[0]), b = call.value(inputs_[1]), y = call.value(output_);
  const Range channels = share(buffer_.channels, call.thread, call.threads);
  for (int64_t c = channels.begin; c < channels.end; ++c)
    call.plane.sum_of_two(call.extent(buffer_), channel_of(a, c), channel_of(b, c), channel_of(y, c), relu_);
}

void SumNode::backward(const NetCall& call, float*) const {
  const Planes y = call.value(output_), dy = call.gradient(output_);
  const Range channels = share(buffer_.channels, call.thread, call.threads);
  for (size_t i = 0; i < 2; ++i) {
    if (!wants_input_gradient(call, i)) continue;
    const Planes dx = call.gradient(inputs_[i]);
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      if (relu_) {
        call.plane.relu_gradient(call.extent(buffer_), channel_of(y, c), channel_of(dy, c), channel_of(dx, c),
                                 adds[i]);
      } else {
        call.plane.copy(call.extent(buffer_), channel_of(dy, c), channel_of(dx, c), false, adds[i]);
      }
    }
  }
}

// ------------------------------------------------------------------ pooling
bool PoolNode::covers_its_input() const {
  const Pool& p = pool_;
  return maximum_ && p.stride_y == p.kernel_y && p.stride_x == p.kernel_x && p.pad_y == 0 && p.pad_x == 0 &&
         p.height % p.kernel_y == 0 && p.width % p.kernel_x == 0;
}

int64_t PoolNode::floats(const NetLayout& layout) const {
  return maximum_ ? buffer_.features() * layout.tiles * 16 / 4 : 0;  // a byte for each output
}

void PoolNode::forward(const NetCall& call, float* own) const {
  const Planes x = call.value(inputs_[0]), y = call.value(output_);
  const Extent extent = call.extent(buffer_);
  const int64_t bytes = int64_t(buffer_.height) * buffer_.width * call.layout.tiles * 16;
  const Range channels = share(buffer_.channels, call.thread, call.threads);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    if (maximum_) {
      call.pool.max_pool(extent, pool_, channel_of(x, c), channel_of(y, c),
                          reinterpret_cast<uint8_t*>(own) + c * bytes);
    } else {
      call.pool.average_pool(extent, pool_, channel_of(x, c), channel_of(y, c));
    }
  }
}

void PoolNode::backward(const NetCall& call, float* own) const {
  if (!wants_input_gradient(call)) return;
  const Planes dy = call.gradient(output_), dx = call.gradient(inputs_[0]);
  const Extent extent = call.extent(buffer_);
  const int64_t bytes = int64_t(buffer_.height) * buffer_.width * call.layout.tiles * 16;
  const Range channels = share(buffer_.channels, call.thread, call.threads);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    if (maximum_) {
      call.pool.max_pool_gradient(extent, pool_, reinterpret_cast<const uint8_t*>(own) + c * bytes,
                                   channel_of(dy, c), channel_of(dx, c), adds[0]);
    } else {
      call.pool.average_pool_gradient(extent, pool_, channel_of(dy, c), channel_of(dx, c), adds[0]);
    }
  }
}

}  // namespace secateur
