// torch.optim's SGD, Adam and AdamW on plain arrays: options in double precision, rates for the kernels.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/team.h"
#include "kernels/sparse_kernels.h"

namespace secateur {

constexpr int64_t kBlock = 1024;  // gradients on their way from their sums to the update

// A torch parameter as the optimizer sees it: `active` values with gradients, then values whose gradient is zero
// (their unit feeds nothing), which only decay.
struct Parameter {
  float* value = nullptr;
  float* first = nullptr;   // velocity, or Adam's mean
  float* second = nullptr;  // Adam's mean of squares
  int64_t active = 0, count = 0;
  int group = 0;
};

// The options of one torch parameter group.
struct OptimizerOptions {
  bool adam = false, decoupled = false, nesterov = false, maximize = false;
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0, beta1 = 0, beta2 = 0, eps = 0;
};

class Optimizer {
 public:
  void add_group(int group) { options_.resize(std::max(options_.size(), size_t(group) + 1)); }

  void set_sgd(int group, double lr, double momentum, double dampening, double weight_decay, bool nesterov,
               bool maximize) {
    OptimizerOptions o;
    o.lr = lr, o.momentum = momentum, o.dampening = dampening, o.weight_decay = weight_decay;
    o.nesterov = nesterov, o.maximize = maximize;
    options_.at(size_t(group)) = o;
  }

  void set_adam(int group, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                bool maximize) {
    OptimizerOptions o;
    o.adam = true, o.decoupled = decoupled, o.maximize = maximize;
    o.lr = lr, o.beta1 = beta1, o.beta2 = beta2, o.eps = eps, o.weight_decay = weight_decay;
    options_.at(size_t(group)) = o;
  }

  // Throws unless the parameter has the state that its group's options ask for.
  void check(const Parameter& p) const {
    const OptimizerOptions& o = options_.at(size_t(p.group));
    if (p.count == 0) return;
    if (o.adam ? !p.first || !p.second : o.momentum != 0 && !p.first)
      throw std::invalid_argument("the optimizer's options ask for state that the step does not have");
  }

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // Before the updates of one step: counts it, and finds its rates.
  void begin_step() {
    ++steps_;
    rates_.clear();
    for (const OptimizerOptions& o : options_) rates_.push_back(rates(o));
  }

  // Updates the values of a range by their gradients, the first of which is gradient[0].
  void update(const SparseKernels& kernels, const Parameter& p, Range range, const float* gradient) const {
    const Rates& r = rates_[size_t(p.group)];
    const int64_t k = range.begin, count = range.end - k;
    if (r.adam) {
      kernels.adam(r.moments, count, gradient, p.value + k, p.first + k, p.second + k);
    } else {
      kernels.sgd(r.sgd, count, gradient, p.value + k, p.first ? p.first + k : nullptr);
    }
  }

  void update_idle(const SparseKernels& kernels, const Parameter& p) const {
    const float zeros[kBlock] = {};
    for (int64_t k = p.active; k < p.count; k += kBlock) update(kernels, p, {k, std::min(k + kBlock, p.count)}, zeros);
  }

 private:
  struct Rates {
    bool adam;
    SgdRates sgd;
    AdamRates moments;
  };

  Rates rates(const OptimizerOptions& o) const {
    const float sign = o.maximize ? -1.0f : 1.0f;
    const double correction1 = 1.0 - std::pow(o.beta1, double(steps_));
    const double correction2 = 1.0 - std::pow(o.beta2, double(steps_));
    return {o.adam,
            {float(o.lr), float(o.momentum), float(1.0 - o.dampening), float(o.weight_decay), o.nesterov, steps_ == 1,
             sign},
            {float(o.adam ? o.lr / correction1 : 0.0), float(o.beta1), float(o.beta2), float(o.eps),
             float(o.adam ? std::sqrt(correction2) : 1.0), float(o.decoupled ? 0.0 : o.weight_decay),
             float(o.decoupled ? 1.0 - o.lr * o.weight_decay : 1.0), sign}};
  }

  std::vector<OptimizerOptions> options_;
  std::vector<Rates> rates_;
  int64_t steps_ = 0;
};

// Throws std::invalid_argument unless there are samples and each label is a class.
inline void check_labels(const int64_t* labels, int64_t samples, int64_t classes) {
  if (samples < 1) throw std::invalid_argument("a step needs at least one sample, got 0");
  for (int64_t i = 0; i < samples; ++i)
    if (labels[i] < 0 || labels[i] >= classes)
      throw std::invalid_argument("`targets` must be class numbers in [0, " + std::to_string(classes) + "), got " +
                                  std::to_string(labels[i]) + " at index " + std::to_string(i));
}

}  // namespace secateur
