// A convolution together with the pooling behind it.

#include "base/room.h"
#include "net/net_nodes.h"

namespace secateur {
namespace {

// The gradient of the convolution's output: a pooled gradient at the places of the winners, else zeros.
class Unpooled : public MadeChannels {
 public:
  Unpooled(const NetCall& call, const Pool& pool, const Extent& pooled, const Planes& dy, const uint8_t* winners)
      : call_(call), pool_(pool), pooled_(pooled), dy_(dy), winners_(winners),
        floats_(int64_t(pool.height) * pool.width * 16), room_(scratch(Scratch::pooling, 4 * floats_)) {}

  const float* make(int32_t tile, int32_t channel, int slot) const override {
    const int64_t bytes = int64_t(pooled_.height) * pooled_.width * 16;
    const Extent one{1, pooled_.height, pooled_.width, 16};
    const Plane dy{dy_.at + tile * dy_.tile + channel * dy_.channel, 0, dy_.row, dy_.step};
    const Plane made{room_ + slot * floats_, 0, int64_t(pool_.width) * 16, 16};
    call_.pool.max_pool_gradient(one, pool_, winners_ + (int64_t(channel) * pooled_.tiles + tile) * bytes, dy, made,
                                  false);
    return made.at;
  }

 private:
  const NetCall& call_;
  const Pool& pool_;
  const Extent& pooled_;
  const Planes& dy_;
  const uint8_t* winners_;
  int64_t floats_;
  float* room_;
};

}  // namespace

void ConvolutionNode::join(const PoolNode& pool) {
  pool_ = pool.pool();
  pooled_ = pool.output();
}

int64_t ConvolutionNode::floats(const NetLayout& layout) const {
  if (!pool_) return layer_.floats();
  const int64_t places = int64_t(pool_->height / pool_->kernel_y) * (pool_->width / pool_->kernel_x);
  return layer_.floats() + layer_.shape().outputs * places * layout.tiles * 16 / 4;
}

Extent ConvolutionNode::pooled_extent(const NetCall& call) const {
  return {call.layout.tiles, pool_->height / pool_->kernel_y, pool_->width / pool_->kernel_x, 16};
}

uint8_t* ConvolutionNode::winners(float* own) const { return reinterpret_cast<uint8_t*>(own + layer_.floats()); }

void ConvolutionNode::forward_pooled(const NetCall& call, float* own) const {
  const ConvShape& s = layer_.shape();
  const Extent pooled = pooled_extent(call);
  const Planes x = call.value(inputs_[0]), y = call.value(pooled_);
  const int64_t row_floats = int64_t(pool_->width) * 16, strip_floats = pool_->kernel_y * row_floats;
  const Planes strip{scratch(Scratch::pooling, s.outputs * strip_floats), 0, strip_floats, row_floats, 16};
  const Extent one{1, 1, pooled.width, 16};
  const Range places = share(int64_t(pooled.tiles) * pooled.height, call.thread, call.threads);
  for (int64_t place = places.begin; place < places.end; ++place) {
    const int32_t tile = int32_t(place / pooled.height), row = int32_t(place % pooled.height);
    layer_.forward_rows(call.convolution, call.slots[size_t(slot_)], own, call.slots[size_t(slot_) + 1], relu_, x,
                        tile, row * pool_->kernel_y, pool_->kernel_y, strip);
    for (int64_t c = 0; c < s.outputs; ++c) {
      const Plane target{y.at + tile * y.tile + c * y.channel + row * y.row, 0, 0, y.step};
      const int64_t at = (c * pooled.tiles + tile) * pooled.height + row;
      call.pool.max_pool(one, *pool_, channel_of(strip, c), target, winners(own) + at * pooled.width * 16);
    }
  }
}

void ConvolutionNode::backward_pooled(const NetCall& call, float* own) const {
  const Extent pooled = pooled_extent(call);
  const Planes y = call.value(pooled_), pooled_dy = call.gradient(pooled_), dy = call.gradient(output_);
  const bool stored = wants_input_gradient(call);  // which reads all channels at once
  const int64_t bytes = int64_t(pooled.tiles) * pooled.height * pooled.width * 16;
  const Range channels = share(layer_.shape().outputs, call.thread, call.threads);
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    const Plane of_channel = channel_of(pooled_dy, c);
    // The largest is positive where its own ReLU lets the gradient through.
    if (relu_) call.plane.relu_gradient(pooled, channel_of(y, c), of_channel, of_channel, false);
    if (float* out = call.slot_gradient(slot_ + 1)) out[c] = float(call.plane.total(pooled, of_channel));
    if (stored)
      call.pool.max_pool_gradient(pooled, *pool_, winners(own) + c * bytes, of_channel, channel_of(dy, c), false);
  }
  call.wait();
  if (float* out = call.slot_gradient(slot_)) {
    const Unpooled made(call, *pool_, pooled, pooled_dy, winners(own));
    const Planes strides{nullptr, 0, 0, int64_t(pool_->width) * 16, 16};
    layer_.gradient(call.convolution, call.split, own, call.value(inputs_[0]), stored ? dy : strides, call.layout.tiles,
                    call.barrier, call.thread, call.threads, out, stored ? nullptr : &made);
  }
  if (stored)
    layer_.backward(call.convolution, call.split, own, dy, call.gradient(inputs_[0]), adds[0], call.layout.tiles, call.thread,
                    call.threads);
}

}  // namespace secateur
