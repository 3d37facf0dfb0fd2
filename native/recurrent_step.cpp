// A whole training step of a recurrent classifier in one call: a sparse linear projection of each step's features
// (or none), one sparse LSTM or GRU, a sparse linear layer on its last state, softmax and cross-entropy, all the way
// back, and the optimizer's update.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "optimizer.h"
#include "recurrent_layer.h"
#include "sparse_chain.h"

namespace nb = nanobind;

namespace secateur {
namespace {

using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kBlock = 1024;  // gradients on their way from their sums to the update
constexpr int64_t kWorkPerThread = 6000;

int32_t tiles_of(int64_t samples) { return int32_t((samples + kTileSamples - 1) / kTileSamples); }
int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

// A torch parameter as the optimizer sees it: values with gradients, whose places among the step's numbers are
// known, then values whose gradient is zero (their unit feeds nothing), which only decay.
struct Parameter {
  float *value, *first, *second;
  std::vector<int32_t> places;
  int64_t count;
  size_t group;
};

// The rows of one chunk, each `width` floats, that one thread needs for a training step.
struct Room {
  float *features, *logits, *dlogits, *dlast, *carry, *dx, *ring, *trace;
};

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

  void add_parameter(uintptr_t value, uintptr_t first, uintptr_t second, Indices places, int64_t count, size_t group) {
    const int64_t active = int64_t(places.size());
    if (count < active) throw std::invalid_argument("a parameter has fewer values than places");
    for (int64_t k = 0; k < active; ++k)
      if (places.data()[k] < 0 || places.data()[k] >= numbers()) throw std::invalid_argument("a place lies outside");
    parameters_.push_back({reinterpret_cast<float*>(value), reinterpret_cast<float*>(first),
                           reinterpret_cast<float*>(second), {places.data(), places.data() + active}, count, group});
    if (options_.size() <= group) options_.resize(group + 1);
  }

  void set_constant(int64_t place, float value) { constants_.at(size_t(place)) = value; }

  void set_sgd(size_t group, double lr, double momentum, double dampening, double weight_decay, bool nesterov,
               bool maximize) {
    options_.at(group) = OptimizerOptions::sgd(lr, momentum, dampening, weight_decay, nesterov, maximize);
  }

  void set_adam(size_t group, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                bool maximize) {
    options_.at(group) = OptimizerOptions::for_adam(lr, beta1, beta2, eps, weight_decay, decoupled, maximize);
  }

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // Mean loss of the batch before the update. x[sample][time][feature] with the strides given.
  double step(uintptr_t x, int64_t sample_stride, int64_t time_stride, uintptr_t targets, int64_t samples,
              int64_t times, int threads) {
    const int64_t* labels = reinterpret_cast<const int64_t*>(targets);
    check(labels, samples, times);
    const Batch batch = prepare(x, sample_stride, time_stride, labels, samples, times, threads, true);
    rates_.clear();
    ++steps_;
    for (const OptimizerOptions& o : options_) rates_.push_back(OptimizerRates::at(o, steps_));
    Barrier barrier;
    run_team(batch.team, [&](int thread, int team) {
      train_chunks(batch, thread, team);
      barrier.wait(team);
      const Range mine = share(numbers(), thread, team, 16);
      for (int i = 1; i < team; ++i)
        batch.t.recurrent.add(mine.end - mine.begin, sums(batch, i) + mine.begin, sums(batch, 0) + mine.begin);
      barrier.wait(team);
      for (const Parameter& p : parameters_) update(batch, p, thread, team);
    });
    double loss = 0;
    for (double l : losses_) loss += l;
    return loss / double(samples);
  }

  // The classifier's outputs, [sample][class].
  void predict(uintptr_t x, int64_t sample_stride, int64_t time_stride, int64_t samples, int64_t times, uintptr_t out,
               int threads) {
    const Batch batch = prepare(x, sample_stride, time_stride, nullptr, samples, times, threads, false);
    const Packer classes(head_->rows());
    run_team(batch.team, [&](int thread, int team) {
      for (int c = thread; c < batch.chunks; c += team) {
        const Chunk chunk = Chunk::of(batch.tiles, c, batch.chunks);
        const Room room = this->room(batch, thread, chunk.width());
        forward(batch, chunk, room);
        classes.unpack(batch.t, room.logits, samples, chunk, reinterpret_cast<float*>(out), head_->rows());
      }
    });
  }

 private:
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

  void check(const int64_t* labels, int64_t samples, int64_t times) const {
    if (samples < 1 || times < 1) throw std::invalid_argument("a step needs at least one sample and one time step");
    for (int64_t i = 0; i < samples; ++i)
      if (labels[i] < 0 || labels[i] >= head_->rows())
        throw std::invalid_argument("`targets` must be class numbers in [0, " + std::to_string(head_->rows()) +
                                    "), got " + std::to_string(labels[i]) + " at index " + std::to_string(i));
  }

  Batch prepare(uintptr_t x, int64_t sample_stride, int64_t time_stride, const int64_t* labels, int64_t samples,
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
    float* values = scratch(2, 3 * numbers() + 64);
    Batch batch{tables(), reinterpret_cast<const float*>(x), sample_stride, time_stride, labels, samples, times,
                tiles, chunks, team, keep, values, values + numbers(), values + 2 * numbers(),
                scratch(0, room_floats * team), room_floats};
    losses_.assign(size_t(chunks), 0.0);
    std::copy(constants_.begin(), constants_.end(), values);
    for (const Parameter& p : parameters_)
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

  Room room(const Batch& b, int thread, int32_t width) const {
    float* p = sums(b, thread) + padded(numbers());
    const auto take = [&p, width](int64_t rows) {
      float* at = p;
      p += rows * width;
      return at;
    };
    Room r{};
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

  RecurrentLayer::Trace trace(const Batch& b, const Room& room, Chunk chunk) const {
    // The room holds this chunk alone, so it begins where a batch's first chunk would.
    return cell_->trace(room.trace, {0, chunk.tiles}, b.times, b.keep);
  }

  float* features(const Batch& b, const Room& room, int64_t time, int32_t width) const {
    return room.features + (b.keep ? time : 0) * int64_t(projection_->columns()) * width;
  }

  // ---------------------------------------------------------------- one chunk
  void forward(const Batch& b, Chunk chunk, const Room& room) const {
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
      const Room room = this->room(b, thread, chunk.width());
      forward(b, chunk, room);
      const int64_t before = int64_t(chunk.tile0) * kTileSamples;
      losses_[size_t(c)] =
          b.t.linear.cross_entropy(room.logits - before, chunk.width(), head_->rows(), b.samples, b.labels,
                                   chunk.tile0, chunk.tile0 + chunk.tiles, room.dlogits - before);
      backward(b, chunk, room, sums(b, thread));
    }
  }

  void backward(const Batch& b, Chunk chunk, const Room& room, float* sums) const {
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
  void update(const Batch& b, const Parameter& p, int thread, int team) const {
    const OptimizerRates& rates = rates_[p.group];
    const auto apply = [&](int64_t k, int64_t count, const float* gradient) {
      rates.apply(b.t.linear, count, gradient, p.value + k, p.first ? p.first + k : nullptr,
                  p.second ? p.second + k : nullptr);
    };
    float block[kBlock];
    const Range mine = share(int64_t(p.places.size()), thread, team, 16);
    for (int64_t k = mine.begin; k < mine.end; k += kBlock) {
      const int64_t end = std::min(k + kBlock, mine.end);
      b.t.linear.gather(sums(b, 0), p.places.data() + k, 0, end - k, block);
      apply(k, end - k, block);
    }
    if (thread) return;
    const float zeros[kBlock] = {};
    for (int64_t k = int64_t(p.places.size()); k < p.count; k += kBlock) apply(k, std::min(kBlock, p.count - k), zeros);
  }

  std::shared_ptr<const RecurrentLayer> cell_;
  std::shared_ptr<const SparseLayer> projection_, head_;
  Packer packer_;
  std::vector<int64_t> first_;
  std::vector<float> constants_;
  std::vector<Parameter> parameters_;
  std::vector<OptimizerOptions> options_;
  std::vector<OptimizerRates> rates_;
  std::vector<double> losses_;
  int64_t steps_ = 0;
};

}  // namespace

void bind_recurrent_step(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<RecurrentStep>(module, "RecurrentStep", "A training step of a recurrent classifier in one call.")
      .def(nb::init<std::shared_ptr<const RecurrentLayer>, std::shared_ptr<const SparseLayer>,
                    std::shared_ptr<const SparseLayer>>(),
           nb::arg("cell"), nb::arg("projection").none(), nb::arg("head"))
      .def("first", &RecurrentStep::first)
      .def("add_parameter", &RecurrentStep::add_parameter)
      .def("set_constant", &RecurrentStep::set_constant)
      .def("set_sgd", &RecurrentStep::set_sgd)
      .def("set_adam", &RecurrentStep::set_adam)
      .def_prop_rw("steps", &RecurrentStep::steps, &RecurrentStep::set_steps)
      .def("step", &RecurrentStep::step, Release())
      .def("predict", &RecurrentStep::predict, Release());
}

}  // namespace secateur
