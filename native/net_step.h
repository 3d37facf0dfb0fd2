// A whole training step of a SparseNet: forward, softmax and cross-entropy, backward, and the optimizer's update.

#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "optimizer.h"
#include "sparse_net.h"

namespace secateur {

struct FreeFloats {
  void operator()(float* p) const { std::free(p); }
};

// Aligned floats, zero when made.
std::unique_ptr<float, FreeFloats> zero_floats(int64_t count);

class NetStep {
 public:
  explicit NetStep(std::shared_ptr<SparseNet> net);
  NetStep(const NetStep&) = delete;

  // A trained parameter: its values, the optimizer's state, and for each value whether it may change (null: all).
  void set_parameter(int slot, float* value, float* first, float* second, const float* keep, int64_t count, int group);
  // Something that is not trained: a running statistic.
  void set_constant(int slot, float* value) { slots_.at(size_t(slot)) = value; }
  void set_options(int group, const OptimizerOptions& options) { options_.at(size_t(group)) = options; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // Mean loss of the batch before the update. x: contiguous samples; throws std::invalid_argument for labels that
  // are no class.
  double step(const float* x, const int64_t* labels, int64_t samples, int threads);

 private:
  struct Parameter {
    float *value, *first, *second;
    const float* keep;
    int64_t count;
    int group, slot;
  };

  void prepare(int64_t samples);
  void run(const NetCall&, const float* x, const int64_t* labels);
  void update(const NetCall&, const Parameter&) const;

  std::shared_ptr<SparseNet> net_;
  std::vector<float*> slots_, gradients_;
  std::vector<Parameter> parameters_;
  std::vector<OptimizerOptions> options_;
  std::vector<OptimizerRates> rates_;
  std::vector<std::unique_ptr<float, FreeFloats>> gradient_floats_;
  std::vector<double> losses_;
  std::unique_ptr<float, FreeFloats> work_;
  NetLayout layout_;
  int64_t steps_ = 0;
};

}  // namespace secateur
