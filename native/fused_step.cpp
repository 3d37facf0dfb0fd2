// A whole training step of a sparse chain in one call: forward, softmax and cross-entropy, backward, and the
// optimizer's update of the surviving weights and the biases.

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "optimizer.h"
#include "sparse_chain.h"

namespace nb = nanobind;

namespace secateur {
namespace {

constexpr int64_t kBlock = 1024;  // gradients on their way from the product to the update
constexpr int32_t kTilesAtOnce = 8;

// A torch parameter as the optimizer sees it: `active` values with gradients, then values whose gradient is zero
// (their unit feeds nothing), which only decay.
struct Parameter {
  float* value;
  float* first;   // velocity, or Adam's mean
  float* second;  // Adam's mean of squares
  int64_t active, count;
  int group;
};

class FusedStep {
 public:
  explicit FusedStep(std::vector<std::shared_ptr<const SparseLayer>> layers) : chain_(std::move(layers)) {
    for (size_t i = 0; i < chain_.size(); ++i) {
      const SparseLayer& layer = chain_.layer(i);
      full_.push_back(FullMatrix::pays(layer) ? std::make_unique<FullMatrix>(layer) : nullptr);
    }
  }

  FusedStep(const FusedStep&) = delete;  // the full matrices are its own

  void add_parameter(uintptr_t value, uintptr_t first, uintptr_t second, int64_t active, int64_t count, int group) {
    const size_t index = parameters_.size();
    if (index >= 2 * chain_.size()) throw std::invalid_argument("every layer has a weight and a bias, no more");
    const SparseLayer& layer = chain_.layer(index / 2);
    const int64_t expected = index % 2 ? layer.rows() : layer.count();
    if (active != expected || count < active)
      throw std::invalid_argument("parameter " + std::to_string(index) + " must have " + std::to_string(expected) +
                                  " active values, got " + std::to_string(active));
    parameters_.push_back({reinterpret_cast<float*>(value), reinterpret_cast<float*>(first),
                           reinterpret_cast<float*>(second), active, count, group});
    if (index % 2) {
      biases_.push_back(reinterpret_cast<float*>(value));
    } else {
      values_.push_back(reinterpret_cast<float*>(value));
    }
    if (int(options_.size()) <= group) options_.resize(group + 1);
  }

  void set_sgd(int group, double lr, double momentum, double dampening, double weight_decay, bool nesterov,
               bool maximize) {
    options_.at(group) = OptimizerOptions::sgd(lr, momentum, dampening, weight_decay, nesterov, maximize);
  }

  void set_adam(int group, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                bool maximize) {
    options_.at(group) = OptimizerOptions::for_adam(lr, beta1, beta2, eps, weight_decay, decoupled, maximize);
  }

  // What the full matrices take beside the weights.
  int64_t full_bytes() const {
    int64_t bytes = 0;
    for (const auto& matrix : full_) bytes += matrix ? matrix->bytes() : 0;
    return bytes;
  }

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // The outputs for a batch, one row per sample, with the weights as they are.
  void predict(uintptr_t x, int64_t stride, int64_t samples, uintptr_t out, int threads) {
    check_complete();
    prepare_activations(samples);
    const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
    Barrier barrier;
    run_team(chain_.threads_worth(threads, samples), [&](int thread, int team) {
      const Part part(kernels, barrier, thread, team, tiles_);
      fill(part);
      chain_.infer(part, values_.data(), biases_.data(), reinterpret_cast<const float*>(x), stride, samples, work_,
                   ld_, reinterpret_cast<float*>(out), chain_.layer(chain_.size() - 1).rows(), &full_);
    });
  }

  // Mean loss of the batch before the update.
  double step(uintptr_t x, int64_t stride, uintptr_t targets, int64_t samples, int threads) {
    check_complete();
    if (samples < 1) throw std::invalid_argument("a step needs at least one sample, got 0");
    const int64_t* labels = reinterpret_cast<const int64_t*>(targets);
    const Rows batch{reinterpret_cast<float*>(x), stride};
    check(labels, samples);
    prepare(batch, samples);
    const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
    Barrier barrier;
    run_team(chain_.threads_worth(threads, samples), [&](int thread, int team) {
      const Part part(kernels, barrier, thread, team, tiles_);
      run(part, batch, samples, labels);
    });
    double loss = 0;
    for (double l : losses_) loss += l;
    return loss / double(samples);
  }

 private:
  void check_complete() const {
    if (parameters_.size() != 2 * chain_.size()) throw std::invalid_argument("not every parameter was added");
  }

  void check(const int64_t* labels, int64_t samples) const {
    const int32_t classes = chain_.layer(chain_.size() - 1).rows();
    for (int64_t i = 0; i < samples; ++i)
      if (labels[i] < 0 || labels[i] >= classes)
        throw std::invalid_argument("`targets` must be class numbers in [0, " + std::to_string(classes) + "), got " +
                                    std::to_string(labels[i]) + " at index " + std::to_string(i));
  }

  // Samples × features as torch has them.
  struct Rows {
    float* x;
    int64_t stride;
  };

  void prepare_activations(int64_t samples) {
    ld_ = SparseChain::leading_dimension(samples);
    tiles_ = int32_t((samples + kTileSamples - 1) / kTileSamples);
    work_ = scratch(0, chain_.work_floats(samples));
  }

  void prepare(Rows batch, int64_t samples) {
    prepare_activations(samples);
    gradients_ = scratch(1, chain_.work_floats(samples));
    // Wide batches are summed in several sweeps, which need a place for all gradients of a layer.
    const int64_t entries = chain_.first_entry(chain_.size());
    transposed_ = scratch(2, tiles_ > kTilesAtOnce ? 2 * entries : entries);
    losses_.assign(size_t(tiles_), 0.0);
    ++steps_;
    rates_.clear();
    for (const OptimizerOptions& o : options_) rates_.push_back(OptimizerRates::at(o, steps_));
    int64_t floats = 0;
    for (size_t i = 1; i < full_.size(); ++i) floats += samples * chain_.layer(i).columns();
    float* copies = scratch(3, floats);
    inputs_ = {batch};
    for (size_t i = 1; i < full_.size(); ++i) {
      inputs_.push_back({copies, chain_.layer(i).columns()});
      copies += samples * chain_.layer(i).columns();
    }
  }

  void run(const Part& part, Rows batch, int64_t samples, const int64_t* labels) {
    const size_t last = chain_.size();
    fill(part);
    chain_.pack_input(part, batch.x, batch.stride, samples, work_, ld_);
    chain_.forward(part, values_.data(), biases_.data(), work_, ld_, &full_);
    if (part.row_part == 0) {
      for (int64_t t = part.my_tiles.begin; t < part.my_tiles.end; ++t)
        losses_[size_t(t)] = part.kernels.cross_entropy(
            work_ + chain_.first_row(last) * ld_, ld_, chain_.layer(last - 1).rows(), samples, labels, int32_t(t),
            int32_t(t) + 1, gradients_ + chain_.first_row(last) * ld_);
    }
    chain_.transpose_values(part, values_.data(), 1, transposed_, &full_);
    part.wait();
    chain_.backward(part, values_.data(), transposed_, work_, 1, gradients_, ld_, &full_);
    copy_inputs(part, samples);
    part.wait();
    for (size_t i = 0; i < last; ++i) {
      if (full_[i]) {
        update_full(part, i, samples);
      } else {
        update_weights(part, i);
      }
      update_idle(part, parameters_[2 * i]);
      update_bias(part, i);
    }
  }

  // Gives the full matrices their weights, and numbers to the inputs that no weight reads.
  void fill(const Part& part) {
    bool any = false;
    for (size_t i = 0; i < full_.size(); ++i) {
      if (!full_[i]) continue;
      full_[i]->fill(values_[i], part.thread, part.threads);
      any = true;
    }
    if (full_[0]) chain_.layer(0).clear_unpacked(part.row_part, part.row_parts, part.my_tiles, work_, ld_);
    if (any) part.wait();
  }

  // Copies the activations that full layers read, for their weights' gradients.
  void copy_inputs(const Part& part, int64_t samples) {
    if (part.row_part != 0) return;
    for (size_t i = 1; i < full_.size(); ++i) {
      if (!full_[i]) continue;
      part.kernels.unpack(work_ + chain_.first_row(i) * ld_, ld_, full_[i]->columns(), samples,
                          int32_t(part.my_tiles.begin), int32_t(part.my_tiles.end), inputs_[i].x, inputs_[i].stride);
    }
  }

  void update_full(const Part& part, size_t i, int64_t samples) {
    const FullMatrix& matrix = *full_[i];
    const SparseLayer& layer = chain_.layer(i);
    const DenseKernels& kernels = SECATEUR_TABLE(dense_kernels);
    const float* dy = gradients_ + chain_.first_row(i + 1) * ld_;
    float* strip = scratch(4, int64_t(kernels.rows_at_once) * matrix.columns());
    float block[kBlock];
    const Range mine = share(matrix.rows(), part.thread, part.threads, kernels.rows_at_once);
    for (int32_t row = int32_t(mine.begin); row < mine.end; row += kernels.rows_at_once) {
      const int32_t end = std::min(row + kernels.rows_at_once, int32_t(mine.end));
      matrix.gradient(kernels, dy, ld_, inputs_[i].x, inputs_[i].stride, samples, row, end, strip);
      for (int32_t b = 0; b < layer.column_blocks(); ++b) {
        const Range entries = layer.entries_of(b, row, end);
        for (int64_t k = entries.begin; k < entries.end; k += kBlock) {
          const Range some{k, std::min(k + kBlock, entries.end)};
          matrix.collect(strip, row, some, block);
          update(part.kernels, parameters_[2 * i], some, block);
        }
      }
    }
  }

  void update_weights(const Part& part, size_t i) {
    const SparseLayer& layer = chain_.layer(i);
    const Parameter& weight = parameters_[2 * i];
    const float* dy = gradients_ + chain_.first_row(i + 1) * ld_;
    const float* x = work_ + chain_.first_row(i) * ld_;
    const Range mine = share(weight.active, part.thread, part.threads, 16);
    if (tiles_ > kTilesAtOnce) {
      float* all = transposed_ + chain_.first_entry(chain_.size()) + chain_.first_entry(i);
      layer.gradient(part.kernels, dy, x, ld_, tiles_, mine, all + mine.begin);
      update(part.kernels, weight, mine, all + mine.begin);
    } else {
      float block[kBlock];
      for (int64_t k = mine.begin; k < mine.end; k += kBlock) {
        const Range some{k, std::min(k + kBlock, mine.end)};
        layer.gradient(part.kernels, dy, x, ld_, tiles_, some, block);
        update(part.kernels, weight, some, block);
      }
    }
  }

  void update_bias(const Part& part, size_t i) {
    const Parameter& bias = parameters_[2 * i + 1];
    if (!bias.value) return;
    float block[kBlock];
    const Range mine = share(bias.active, part.thread, part.threads, 16);
    for (int64_t r = mine.begin; r < mine.end; r += kBlock) {
      const Range some{r, std::min(r + kBlock, mine.end)};
      part.kernels.row_sums(gradients_ + (chain_.first_row(i + 1) + some.begin) * ld_, ld_, 0,
                            int32_t(some.end - some.begin), tiles_, block);
      update(part.kernels, bias, some, block);
    }
    update_idle(part, bias);
  }

  void update_idle(const Part& part, const Parameter& parameter) {
    if (part.thread != 0 || parameter.count == parameter.active) return;
    const float zeros[kBlock] = {};
    for (int64_t k = parameter.active; k < parameter.count; k += kBlock)
      update(part.kernels, parameter, {k, std::min(k + kBlock, parameter.count)}, zeros);
  }

  void update(const SparseKernels& kernels, const Parameter& p, Range range, const float* gradient) {
    const int64_t k = range.begin;
    rates_[size_t(p.group)].apply(kernels, range.end - k, gradient, p.value + k, p.first ? p.first + k : nullptr,
                                  p.second ? p.second + k : nullptr);
  }

  SparseChain chain_;
  FullMatrices full_;
  std::vector<Parameter> parameters_;
  std::vector<const float*> values_, biases_;
  std::vector<OptimizerOptions> options_;
  std::vector<OptimizerRates> rates_;
  std::vector<double> losses_;
  std::vector<Rows> inputs_;  // of each layer; those of sparse layers are not filled
  int64_t steps_ = 0, ld_ = 0;
  int32_t tiles_ = 0;
  float *work_ = nullptr, *gradients_ = nullptr, *transposed_ = nullptr;
};

}  // namespace

void bind_fused_step(nb::module_& module) {
  nb::class_<FusedStep>(module, "FusedStep", "A training step of a sparse chain in one call.")
      .def(nb::init<std::vector<std::shared_ptr<const SparseLayer>>>(), nb::arg("layers"))
      .def("add_parameter", &FusedStep::add_parameter)
      .def("set_sgd", &FusedStep::set_sgd)
      .def("set_adam", &FusedStep::set_adam)
      .def_prop_ro("full_bytes", &FusedStep::full_bytes)
      .def_prop_rw("steps", &FusedStep::steps, &FusedStep::set_steps)
      .def("predict", &FusedStep::predict, nb::call_guard<nb::gil_scoped_release>())
      .def("step", &FusedStep::step, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace secateur
