// A whole training step of a sparse chain in one call: forward, softmax and cross-entropy, backward, and the
// optimizer's update of the surviving weights and the biases.

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "sparse_chain.h"

namespace nb = nanobind;

namespace secateur {
namespace {

constexpr int64_t kBlock = 1024;  // gradients on their way from the product to the update
constexpr int32_t kTilesAtOnce = 8;

// The options of one torch parameter group.
struct Options {
  bool adam = false, decoupled = false, nesterov = false, maximize = false;
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0, beta1 = 0, beta2 = 0, eps = 0;
};

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
  explicit FusedStep(std::vector<std::shared_ptr<const SparseLayer>> layers) : chain_(std::move(layers)) {}

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
    Options& o = options_.at(group);
    o = Options{};
    o.lr = lr, o.momentum = momentum, o.dampening = dampening, o.weight_decay = weight_decay;
    o.nesterov = nesterov, o.maximize = maximize;
  }

  void set_adam(int group, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                bool maximize) {
    Options& o = options_.at(group);
    o = Options{};
    o.adam = true, o.decoupled = decoupled, o.maximize = maximize;
    o.lr = lr, o.beta1 = beta1, o.beta2 = beta2, o.eps = eps, o.weight_decay = weight_decay;
  }

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // Mean loss of the batch before the update.
  double step(uintptr_t x, int64_t stride, uintptr_t targets, int64_t samples, int threads) {
    if (parameters_.size() != 2 * chain_.size()) throw std::invalid_argument("not every parameter was added");
    if (samples < 1) throw std::invalid_argument("a step needs at least one sample, got 0");
    const int64_t* labels = reinterpret_cast<const int64_t*>(targets);
    check(labels, samples);
    prepare(samples);
    const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
    Barrier barrier;
    run_team(chain_.threads_worth(threads, samples), [&](int thread, int team) {
      const Part part(kernels, barrier, thread, team, tiles_);
      run(part, reinterpret_cast<const float*>(x), stride, samples, labels);
    });
    double loss = 0;
    for (double l : losses_) loss += l;
    return loss / double(samples);
  }

 private:
  void check(const int64_t* labels, int64_t samples) const {
    const int32_t classes = chain_.layer(chain_.size() - 1).rows();
    for (int64_t i = 0; i < samples; ++i)
      if (labels[i] < 0 || labels[i] >= classes)
        throw std::invalid_argument("`targets` must be class numbers in [0, " + std::to_string(classes) + "), got " +
                                    std::to_string(labels[i]) + " at index " + std::to_string(i));
  }

  void prepare(int64_t samples) {
    ld_ = SparseChain::leading_dimension(samples);
    tiles_ = int32_t((samples + kTileSamples - 1) / kTileSamples);
    work_ = scratch(0, chain_.work_floats(samples));
    gradients_ = scratch(1, chain_.work_floats(samples));
    // Wide batches are summed in several sweeps, which need a place for all gradients of a layer.
    const int64_t entries = chain_.first_entry(chain_.size());
    transposed_ = scratch(2, tiles_ > kTilesAtOnce ? 2 * entries : entries);
    losses_.assign(size_t(tiles_), 0.0);
    ++steps_;
    sgd_.clear();
    adam_.clear();
    for (const Options& o : options_) {
      const float sign = o.maximize ? -1.0f : 1.0f;
      sgd_.push_back({float(o.lr), float(o.momentum), float(1.0 - o.dampening), float(o.weight_decay), o.nesterov,
                      steps_ == 1, sign});
      const double correction1 = 1.0 - std::pow(o.beta1, double(steps_));
      const double correction2 = 1.0 - std::pow(o.beta2, double(steps_));
      adam_.push_back({float(o.adam ? o.lr / correction1 : 0.0), float(o.beta1), float(o.beta2), float(o.eps),
                       float(o.adam ? std::sqrt(correction2) : 1.0), float(o.decoupled ? 0.0 : o.weight_decay),
                       float(o.decoupled ? 1.0 - o.lr * o.weight_decay : 1.0), sign});
    }
  }

  void run(const Part& part, const float* x, int64_t stride, int64_t samples, const int64_t* labels) {
    const size_t last = chain_.size();
    chain_.pack_input(part, x, stride, samples, work_, ld_);
    chain_.forward(part, values_.data(), biases_.data(), work_, ld_);
    if (part.row_part == 0) {
      for (int64_t t = part.my_tiles.begin; t < part.my_tiles.end; ++t)
        losses_[size_t(t)] = part.kernels.cross_entropy(
            work_ + chain_.first_row(last) * ld_, ld_, chain_.layer(last - 1).rows(), samples, labels, int32_t(t),
            int32_t(t) + 1, gradients_ + chain_.first_row(last) * ld_);
    }
    chain_.transpose_values(part, values_.data(), 1, transposed_);
    part.wait();
    chain_.backward(part, values_.data(), transposed_, work_, 1, gradients_, ld_);
    part.wait();
    for (size_t i = 0; i < last; ++i) {
      update_weights(part, i);
      update_bias(part, i);
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
    update_idle(part, weight);
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
    const int64_t k = range.begin, count = range.end - range.begin;
    if (options_[size_t(p.group)].adam) {
      kernels.adam(adam_[size_t(p.group)], count, gradient, p.value + k, p.first + k, p.second + k);
    } else {
      kernels.sgd(sgd_[size_t(p.group)], count, gradient, p.value + k, p.first ? p.first + k : nullptr);
    }
  }

  SparseChain chain_;
  std::vector<Parameter> parameters_;
  std::vector<const float*> values_, biases_;
  std::vector<Options> options_;
  std::vector<SgdRates> sgd_;
  std::vector<AdamRates> adam_;
  std::vector<double> losses_;
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
      .def_prop_rw("steps", &FusedStep::steps, &FusedStep::set_steps)
      .def("step", &FusedStep::step, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace secateur
