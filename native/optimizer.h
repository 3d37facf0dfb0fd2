// torch.optim's SGD, Adam and AdamW on plain arrays: options in double precision, rates for the kernels.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "sparse_kernels.h"

namespace secateur {

// The options of one torch parameter group.
struct OptimizerOptions {
  bool adam = false, decoupled = false, nesterov = false, maximize = false;
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0, beta1 = 0, beta2 = 0, eps = 0;

  static OptimizerOptions sgd(double lr, double momentum, double dampening, double weight_decay, bool nesterov,
                              bool maximize) {
    OptimizerOptions o;
    o.lr = lr, o.momentum = momentum, o.dampening = dampening, o.weight_decay = weight_decay;
    o.nesterov = nesterov, o.maximize = maximize;
    return o;
  }

  static OptimizerOptions for_adam(double lr, double beta1, double beta2, double eps, double weight_decay,
                                   bool decoupled, bool maximize) {
    OptimizerOptions o;
    o.adam = true, o.decoupled = decoupled, o.maximize = maximize;
    o.lr = lr, o.beta1 = beta1, o.beta2 = beta2, o.eps = eps, o.weight_decay = weight_decay;
    return o;
  }
};

// The rates of one step.
struct OptimizerRates {
  bool adam;
  SgdRates sgd;
  AdamRates moments;

  // `step` counts from 1.
  static OptimizerRates at(const OptimizerOptions& o, int64_t step) {
    const float sign = o.maximize ? -1.0f : 1.0f;
    const double correction1 = 1.0 - std::pow(o.beta1, double(step));
    const double correction2 = 1.0 - std::pow(o.beta2, double(step));
    return {o.adam,
            {float(o.lr), float(o.momentum), float(1.0 - o.dampening), float(o.weight_decay), o.nesterov, step == 1,
             sign},
            {float(o.adam ? o.lr / correction1 : 0.0), float(o.beta1), float(o.beta2), float(o.eps),
             float(o.adam ? std::sqrt(correction2) : 1.0), float(o.decoupled ? 0.0 : o.weight_decay),
             float(o.decoupled ? 1.0 - o.lr * o.weight_decay : 1.0), sign}};
  }

  void apply(const SparseKernels& kernels, int64_t count, const float* gradient, float* value, float* first,
             float* second) const {
    if (adam) {
      kernels.adam(moments, count, gradient, value, first, second);
    } else {
      kernels.sgd(sgd, count, gradient, value, first);
    }
  }
};

}  // namespace secateur
