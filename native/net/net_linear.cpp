// Linear layers in a network: slots weight, bias.

#include "base/room.h"
#include "net/net_nodes.h"
#include "step/optimizer.h"

namespace secateur {
namespace {

// Wide batches are summed in several sweeps over all of a layer's weights, which need a place for their sums.
constexpr int32_t kTilesAtOnce = 8;

}  // namespace

LinearNode::LinearNode(std::vector<int> inputs, int output, int slot, std::shared_ptr<const SparseLayer> layer,
                       bool relu, bool full)
    : NetNode(std::move(inputs), output, slot), layer_(std::move(layer)), relu_(relu) {
  if (full && FullMatrix::pays(*layer_)) full_ = std::make_unique<FullMatrix>(layer_);
}

void LinearNode::join(LinearNode& before) {
  joined_ = before.relu_;
  before.left_ = before.relu_;
}

int64_t LinearNode::floats(const NetLayout& layout) const {
  const int64_t sums = layout.parts > 1 ? layer_->count() + layer_->rows() + 64 : 0;
  if (full_) return full_->floats() + (inputs_[0] ? layout.ld * layer_->columns() : 0) + sums;
  return layer_->count() + (sums ? sums : layout.tiles > kTilesAtOnce ? layer_->count() + 32 : 0);
}

float* LinearNode::weight_sums(const NetCall& call, float* own) const {
  if (!full_) return behind_values(own);
  return inputs_by_row(own) + (inputs_[0] ? call.layout.ld * layer_->columns() : 0);
}

void LinearNode::prepare_forward(const NetCall& call, float* own) const {
  if (full_) full_->fill(call.slots[size_t(slot_)], call.thread, call.threads, own);
}

// This thread's part of the rows, for its samples.
void LinearNode::multiply(const NetCall& call, const DenseProduct& product, int32_t rows) const {
  const Range mine = share(rows, call.row_part(), call.grid.row_parts, call.dense.rows_at_once), tiles = call.tiles();
  call.dense.multiply(product, int32_t(mine.begin), int32_t(mine.end), tiles.begin * kTileSamples,
                      tiles.end * kTileSamples);
}

void LinearNode::forward(const NetCall& call, float* own) const {
  const float* x = call.value(inputs_[0]).at;
  const float* bias = call.slots[size_t(slot_) + 1];
  float* y = call.value(output_).at;
  if (full_) return multiply(call, full_->forward(own, x, bias, relu_, y, call.layout.ld), layer_->rows());
  const Range rows = layer_->forward_rows(call.row_part(), call.grid.row_parts), tiles = call.tiles();
  call.linear.multiply(layer_->forward(call.slots[size_t(slot_)], x, bias, relu_, y, call.layout.ld),
                       int32_t(rows.begin), int32_t(rows.end), int32_t(tiles.begin), int32_t(tiles.end));
}

void LinearNode::prepare(const NetCall& call, float* own) const {
  if (wants_input_gradient(call) && !full_)
    layer_->transpose_values(call.linear, call.slots[size_t(slot_)],
                             layer_->transposed_entries(call.thread, call.threads), own);
}

void LinearNode::backward(const NetCall& call, float* own) const {
  const float* dy = call.gradient(output_).at;
  if (relu_ && !left_) {
    const Planes y = call.value(output_), gradient = call.gradient(output_);
    const Extent extent{call.layout.tiles, 1, 1, 16};
    const Range rows = share(layer_->rows(), call.thread, call.threads);
    for (int64_t r = rows.begin; r < rows.end; ++r)
      call.plane.relu_gradient(extent, channel_of(y, r), channel_of(gradient, r), channel_of(gradient, r), false);
    call.wait();
  }
  if (!wants_input_gradient(call)) return;
  const float* activation = joined_ ? call.value(inputs_[0]).at : nullptr;
  float* dx = call.gradient(inputs_[0]).at;
  if (full_) return multiply(call, full_->backward(own, dy, activation, dx, call.layout.ld), layer_->columns());
  const Range rows = layer_->backward_rows(call.row_part(), call.grid.row_parts), tiles = call.tiles();
  call.linear.multiply(layer_->backward(call.slots[size_t(slot_)], own, dy, activation, dx, call.layout.ld),
                       int32_t(rows.begin), int32_t(rows.end), int32_t(tiles.begin), int32_t(tiles.end));
}

// Calls compute(range, out) for this thread's part of a slot's gradients, a block at a time where a sink takes them.
template <class Compute>
void LinearNode::hand_over(const NetCall& call, int slot, int64_t count, Compute compute) const {
  const Range mine = share(count, call.thread, call.threads, 16);
  if (!call.sink) {
    float* out = call.slot_gradient(slot);
    if (out && mine.begin < mine.end) compute(mine, out + mine.begin);
    return;
  }
  if (!call.sink->trains(slot)) return;
  float block[kBlock];
  for (int64_t k = mine.begin; k < mine.end; k += kBlock) {
    const Range some{k, std::min(k + kBlock, mine.end)};
    compute(some, block);
    call.sink->take(slot, some, block);
  }
}

void LinearNode::gradients(const NetCall& call, float* own) const {
  const float* dy = call.gradient(output_).at;
  const float* x = call.value(inputs_[0]).at;
  const int64_t ld = call.layout.ld;
  const int32_t tiles = call.layout.tiles;
  if (call.sink && layer_->of_blocks()) call.wait();  // another thread may still read the weights themselves
  if (full_) full_gradients(call, own);
  if (call.layout.parts > 1) return sum_gradients(call, own);
  if (!full_ && call.sink && call.sink->trains(slot_) && tiles > kTilesAtOnce) {
    const Range mine = share(layer_->count(), call.thread, call.threads, 16);
    float* all = behind_values(own) + mine.begin;
    layer_->gradient(call.linear, dy, x, ld, tiles, mine, all);
    call.sink->take(slot_, mine, all);
  } else if (!full_) {
    hand_over(call, slot_, layer_->count(), [&](Range some, float* out) {
      layer_->gradient(call.linear, dy, x, ld, tiles, some, out);
    });
  }
  hand_over(call, slot_ + 1, layer_->rows(), [&](Range some, float* out) {
    call.linear.row_sums(dy + some.begin * ld, ld, 0, int32_t(some.end - some.begin), tiles, out);
  });
}

// Adds the gradients of one part of the batch to those of the parts before it; with the last one they are handed over.
void LinearNode::sum_gradients(const NetCall& call, float* own) const {
  const float* dy = call.gradient(output_).at;
  const int64_t ld = call.layout.ld;
  const bool last = call.part + 1 == call.layout.parts;
  const Range mine = share(layer_->count(), call.thread, call.threads, 16);
  if (!full_ && call.sink->trains(slot_) && mine.begin < mine.end) {
    float* sums = weight_sums(call, own) + mine.begin;
    layer_->gradient(call.linear, dy, call.value(inputs_[0]).at, ld, call.layout.tiles, mine, sums, call.part > 0);
    if (last) call.sink->take(slot_, mine, sums);
  }
  if (!call.sink->trains(slot_ + 1)) return;
  const Range rows = share(layer_->rows(), call.thread, call.threads, 16);
  float* sums = bias_sums(call, own);
  float block[kBlock];
  for (int64_t r = rows.begin; r < rows.end; r += kBlock) {
    const Range some{r, std::min(r + kBlock, rows.end)};
    call.linear.row_sums(dy + some.begin * ld, ld, 0, int32_t(some.end - some.begin), call.layout.tiles, block);
    for (int64_t i = some.begin; i < some.end; ++i) sums[i] = block[i - some.begin] + (call.part ? sums[i] : 0.0f);
  }
  if (last && rows.begin < rows.end) call.sink->take(slot_ + 1, rows, sums + rows.begin);
}

// A few rows at a time: the gradients of all their weights, of which those that exist are collected.
void LinearNode::full_gradients(const NetCall& call, float* own) const {
  const int64_t samples = call.layout.samples;
  const int32_t columns = layer_->columns(), at_once = call.dense.rows_at_once;
  const float* dy = call.gradient(output_).at;
  const float* x = call.batch;
  if (inputs_[0]) {
    float* copy = inputs_by_row(own);
    const Range tiles = share(call.layout.tiles, call.thread, call.threads);
    call.linear.unpack(call.value(inputs_[0]).at, call.layout.ld, columns, samples, int32_t(tiles.begin),
                       int32_t(tiles.end), copy, columns);
    call.wait();
    x = copy;
  }
  float* strip = scratch(Scratch::activations, int64_t(at_once) * columns);
  float block[kBlock];
  const Range mine = share(layer_->rows(), call.thread, call.threads, at_once);
  for (int32_t row = int32_t(mine.begin); row < mine.end; row += at_once) {
    const int32_t end = std::min(row + at_once, int32_t(mine.end));
    full_->gradient(call.dense, dy, call.layout.ld, x, columns, samples, row, end, strip);
    for (int32_t b = 0; b < layer_->column_blocks(); ++b) {
      const Range entries = layer_->entries_of(b, row, end);
      for (int64_t k = entries.begin; k < entries.end; k += kBlock) {
        const Range some{k, std::min(k + kBlock, entries.end)};
        full_->collect(strip, row, b, some, block);
        if (call.layout.parts == 1) {
          call.sink->take(slot_, some, block);
          continue;
        }
        float* sums = weight_sums(call, own) + some.begin;
        for (int64_t i = 0; i < some.end - some.begin; ++i) sums[i] = block[i] + (call.part ? sums[i] : 0.0f);
        if (call.part + 1 == call.layout.parts) call.sink->take(slot_, some, sums);
      }
    }
  }
}

}  // namespace secateur
