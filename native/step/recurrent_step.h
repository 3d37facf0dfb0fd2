// A whole training step of a recurrent classifier in one call: a sparse linear projection of each step's features
// (or none), one sparse LSTM or GRU, a sparse linear layer on its last state, softmax and cross-entropy, all the way
// back, and the optimizer's update.

#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/room.h"
#include "layers/recurrent_layer.h"
#include "layers/sparse_layer.h"
#include "step/optimizer.h"

namespace secateur {

class RecurrentStep {
 public:
  RecurrentStep(std::shared_ptr<const RecurrentLayer> cell, std::shared_ptr<const SparseLayer> projection,
                std::shared_ptr<const SparseLayer> head)
      : cell_(std::move(cell)), projection_(std::move(projection)), head_(std::move(head)), packer_(0) {
    if (projection_ && projection_->rows() != cell_->inputs())
      throw std::invalid_argument("the projection must give what the cell takes");
    if (head_->columns() != cell_->units()) throw std::invalid_argument("the head must take the cell's state");
    first_ = {padded(cell_->numbers())};
    for (const SparseLayer* layer : {projection_.get(), head_.get()}) {
      first_.push_back(padded(first_.back() + (layer ? layer->count() : 0)));
      first_.push_back(padded(first_.back() + (layer ? layer->rows() : 0)));
    }
    constants_.assign(size_t(numbers()), 0.0f);
    if (projection_) {
      std::vector<bool> alive(size_t(projection_->columns()), false);
      for (int64_t k = 0; k < projection_->count(); ++k) alive[size_t(projection_->entry_columns()[k])] = true;
      packer_ = Packer(projection_->columns(), alive);
    }
  }

  // Where the projection's weights (0) and biases (1) and the head's (2, 3) begin among the numbers; the cell's
  // come first, and the end last.
  int64_t first(size_t part) const { return first_.at(part); }
  int64_t numbers() const { return first_.back(); }

  // Where each of the parameter's active values stands among the numbers.
  void add_parameter(const Parameter& parameter, const int32_t* places) {
    for (int64_t k = 0; k < parameter.active; ++k)
      if (places[k] < 0 || places[k] >= numbers()) throw std::invalid_argument("a place lies outside");
    parameters_.push_back({parameter, {places, places + parameter.active}});
    optimizer_.add_group(parameter.group);
  }

  void set_constant(int64_t place, float value) { constants_.at(size_t(place)) = value; }

  Optimizer& optimizer() { return optimizer_; }
  // Numbers of one time step of the input, and classes.
  int32_t features() const { return projection_ ? projection_->columns() : cell_->inputs(); }
  int32_t classes() const { return head_->rows(); }
  // What it keeps between calls, beside the weights; the next call takes it anew.
  int64_t room_bytes() const { return values_.bytes() + rooms_.bytes(); }
  void release() { values_.release(), rooms_.release(); }

  // Mean loss of the batch before the update. x[sample][time][feature] with the strides given.
  double step(const float* x, int64_t sample_stride, int64_t time_stride, const int64_t* labels, int64_t samples,
              int64_t times, int threads) {
    check_labels(labels, samples, head_->rows());
    if (times < 1) throw std::invalid_argument("a step needs at least one time step");
    for (const Placed& p : parameters_) optimizer_.check(p);
    const Batch batch = prepare(x, sample_stride, time_stride, labels, samples, times, threads, true);
    optimizer_.begin_step();
    Barrier barrier;
    run_team(batch.team, [&](int thread, int team) {
      train_chunks(batch, thread, team);
      barrier.wait(team);
      const Range mine = share(numbers(), thread, team, 16);
      for (int i = 1; i < team; ++i)
        batch.t.recurrent.add(mine.end - mine.begin, sums(batch, i) + mine.begin, sums(batch, 0) + mine.begin);
      barrier.wait(team);
      for (const Placed& p : parameters_) update(batch, p, thread, team);
    });
    double loss = 0;
    for (double l : losses_) loss += l;
    return loss / double(samples);
  }

  // The classifier's outputs, [sample][class].
  void predict(const float* x, int64_t sample_stride, int64_t time_stride, int64_t samples, int64_t times, float* out,
               int threads) {
    const Batch batch = prepare(x, sample_stride, time_stride, nullptr, samples, times, threads, false);
    const Packer classes(head_->rows());
    run_team(batch.team, [&](int thread, int team) {
      for (int c = thread; c < batch.chunks; c += team) {
        const Chunk chunk = Chunk::of(batch.tiles, c, batch.chunks);
        const ChunkRoom room = this->room(batch, thread, chunk.width());
        forward(batch, chunk, room);
        classes.unpack(batch.t, room.logits, samples, chunk, out, head_->rows());
      }
    });
  }

 private:
  // Multiply-adds of one vector below which another thread costs more than it brings.
  static constexpr int64_t kWorkPerThread = 6000;

  static int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

  struct Placed : Parameter {
    std::vector<int32_t> places;  // of its active values among the step's numbers
  };

  // The rows of one chunk, each `width` floats, that one thread needs for a training step.
  struct ChunkRoom {
    float *features, *logits, *dlogits, *dlast, *carry, *dx, *ring, *trace;
  };

  struct Batch {
    Tables t;
    const float* x;
    int64_t sample_stride, time_stride;
    const int64_t* labels;
    int64_t samples, times;
    int32_t tiles;
    int chunks, team;
    bool keep;
    float *numbers, *back, *head_back;  // values; the cell's and the head's in transposed order
    float* rooms;
    int64_t room_floats;
  };

  Batch prepare(const float* x, int64_t sample_stride, int64_t time_stride, const int64_t* labels, int64_t samples,
                int64_t times, int threads, bool keep) {
    const int32_t tiles = tiles_of(samples);
    const int64_t worth = (cell_->count() + 64) * times * tiles / kWorkPerThread;
    const int most = int(std::clamp<int64_t>(worth, 1, std::max(threads, 1)));
    const int chunks = Chunk::count_for(tiles, most);
    const int team = std::min(most, chunks);
    int64_t floats = 0;
    for (int c = 0; c < chunks; ++c) {
      const int32_t width = Chunk::of(tiles, c, chunks).width();
      floats = std::max(floats, room_rows(times, width, keep) * width);
    }
    const int64_t room_floats = padded(numbers()) + (floats + 31) / 32 * 32;
    float* values = values_.floats(3 * numbers() + 64);
    Batch batch{tables(), x, sample_stride, time_stride, labels, samples, times,
                tiles, chunks, team, keep, values, values + numbers(), values + 2 * numbers(),
                rooms_.floats(room_floats * team), room_floats};
    losses_.assign(size_t(chunks), 0.0);
    std::copy(constants_.begin(), constants_.end(), values);
    for (const Placed& p : parameters_)
      for (size_t k = 0; k < p.places.size(); ++k) values[p.places[k]] += p.value[k];
    if (keep) {
      cell_->transpose(batch.t, values, {0, cell_->count()}, batch.back);
      head_->transpose_values(batch.t.linear, values + first_[2], {0, head_->count()}, batch.head_back);
    }
    return batch;
  }

  // ---------------------------------------------------------------- memory
  int64_t block(int32_t width) const { return RecurrentLayer::steps_at_once(width); }

  int64_t room_rows(int64_t times, int32_t width, bool keep) const {
    const int64_t features = projection_ ? (keep ? times : 1) * int64_t(projection_->columns()) : 0;
    const int64_t own = features + 2 * head_->rows();
    if (!keep) return own + cell_->rows(times, false);
    const int64_t dx = projection_ ? block(width) * cell_->inputs() : 0;
    return own + 2 * int64_t(cell_->units()) + dx + cell_->ring_rows(width) + cell_->rows(times, true);
  }

  float* sums(const Batch& b, int thread) const { return b.rooms + thread * b.room_floats; }

  ChunkRoom room(const Batch& b, int thread, int32_t width) const {
    float* p = sums(b, thread) + padded(numbers());
    const auto take = [&p, width](int64_t rows) {
      float* at = p;
      p += rows * width;
      return at;
    };
    ChunkRoom r{};
    r.features = take(projection_ ? (b.keep ? b.times : 1) * int64_t(projection_->columns()) : 0);
    r.logits = take(head_->rows());
    r.dlogits = take(head_->rows());
    if (b.keep) {
      r.dlast = take(cell_->units());
      r.carry = take(cell_->units());
      r.dx = take(projection_ ? block(width) * cell_->inputs() : 0);
      r.ring = take(cell_->ring_rows(width));
    }
    r.trace = p;
    return r;
  }

  RecurrentLayer::Trace trace(const Batch& b, const ChunkRoom& room, Chunk chunk) const {
    // The room holds this chunk alone, so it begins where a batch's first chunk would.
    return cell_->trace(room.trace, {0, chunk.tiles}, b.times, b.keep);
  }

  float* features(const Batch& b, const ChunkRoom& room, int64_t time, int32_t width) const {
    return room.features + (b.keep ? time : 0) * int64_t(projection_->columns()) * width;
  }

  // ---------------------------------------------------------------- one chunk
  void forward(const Batch& b, Chunk chunk, const ChunkRoom& room) const {
    const RecurrentLayer::Trace trace = this->trace(b, room, chunk);
    const int32_t width = chunk.width();
    const int64_t units = int64_t(cell_->units()) * width;
    std::fill_n(cell_->h(trace, 0, b.keep), units, 0.0f);
    if (!cell_->gru()) std::fill_n(trace.state, units, 0.0f);
    for (int64_t time = 0; time < b.times; ++time) {
      const float* x = b.x + time * b.time_stride;
      float* input = trace.x(b.keep ? time : time & 1);
      if (projection_) {
        float* rows = features(b, room, time, width);
        packer_.pack(b.t, x, b.sample_stride, b.samples, chunk, rows);
        multiply(b, projection_->forward(b.numbers + first_[0], rows, b.numbers + first_[1], false, input, width),
                 chunk);
      } else {
        cell_->input_packer().pack(b.t, x, b.sample_stride, b.samples, chunk, input);
      }
      cell_->forward(b.t, b.numbers, trace, time, b.keep);
    }
    const float* last = cell_->h(trace, b.times, b.keep);
    multiply(b, head_->forward(b.numbers + first_[2], last, b.numbers + first_[3], false, room.logits, width), chunk);
  }

  void train_chunks(const Batch& b, int thread, int team) {
    std::fill_n(sums(b, thread), numbers(), 0.0f);
    for (int c = thread; c < b.chunks; c += team) {
      const Chunk chunk = Chunk::of(b.tiles, c, b.chunks);
      const ChunkRoom room = this->room(b, thread, chunk.width());
      forward(b, chunk, room);
      const int64_t before = int64_t(chunk.tile0) * kTileSamples;
      losses_[size_t(c)] =
          b.t.linear.cross_entropy(room.logits - before, chunk.width(), head_->rows(), b.samples, b.labels,
                                   chunk.tile0, chunk.tile0 + chunk.tiles, room.dlogits - before);
      backward(b, chunk, room, sums(b, thread));
    }
  }

  void backward(const Batch& b, Chunk chunk, const ChunkRoom& room, float* sums) const {
    const RecurrentLayer::Trace trace = this->trace(b, room, chunk);
    const int32_t width = chunk.width();
    const RecurrentLayer::Ring ring = cell_->ring(room.ring, width);
    add_linear(b, *head_, room.dlogits, 0, cell_->h(trace, b.times), 0, 1, width, sums + first_[2], sums + first_[3]);
    multiply(b, head_->backward(b.numbers + first_[2], b.head_back, room.dlogits, nullptr, room.dlast, width), chunk);
    std::fill_n(room.carry, int64_t(cell_->units()) * width, 0.0f);
    const int64_t at_once = block(width), inputs = int64_t(cell_->inputs()) * width;
    int64_t end = b.times;
    for (int64_t time = b.times; time-- > 0;) {
      cell_->backward(b.t, b.back, trace, ring, time, nullptr, room.dlast, room.carry);
      if (projection_)
        cell_->input_gradient(b.t, b.back, ring, time, width, room.dx + time % at_once * inputs);
      if (time % at_once) continue;
      cell_->add_gradients(b.t, trace, ring, time, end, true, sums);
      if (projection_)
        add_linear(b, *projection_, room.dx, inputs, features(b, room, time, width),
                   int64_t(projection_->columns()) * width, end - time, width, sums + first_[0], sums + first_[1]);
      end = time;
    }
  }

  void multiply(const Batch& b, const Product& product, Chunk chunk) const {
    b.t.linear.multiply(product, 0, product.rows, 0, chunk.tiles);
  }

  // Adds the gradients of a linear layer over several time steps.
  void add_linear(const Batch& b, const SparseLayer& layer, const float* dy, int64_t dy_stride, const float* x,
                  int64_t x_stride, int64_t steps, int32_t width, float* weights, float* biases) const {
    const StepsProduct p{layer.entry_rows(), layer.entry_columns(), dy, dy_stride, x, x_stride, int32_t(steps), width};
    b.t.recurrent.weight_gradient(p, 0, layer.count(), weights);
    b.t.recurrent.bias_gradient(p, 0, layer.rows(), biases);
  }

  // ---------------------------------------------------------------- update
  void update(const Batch& b, const Placed& p, int thread, int team) const {
    float block[kBlock];
    const Range mine = share(p.active, thread, team, 16);
    for (int64_t k = mine.begin; k < mine.end; k += kBlock) {
      const Range some{k, std::min(k + kBlock, mine.end)};
      b.t.linear.gather(sums(b, 0), p.places.data() + k, 0, some.end - k, block);
      optimizer_.update(b.t.linear, p, some, block);
    }
    if (thread == 0) optimizer_.update_idle(b.t.linear, p);
  }

  std::shared_ptr<const RecurrentLayer> cell_;
  std::shared_ptr<const SparseLayer> projection_, head_;
  Packer packer_;
  std::vector<int64_t> first_;
  std::vector<float> constants_;
  std::vector<Placed> parameters_;
  Optimizer optimizer_;
  std::vector<double> losses_;
  Room values_, rooms_;
};

}  // namespace secateur
