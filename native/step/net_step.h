// A whole training step of a SparseNet: forward, softmax and cross-entropy, backward, and the optimizer's update.

#pragma once

#include <memory>
#include <vector>

#include "base/room.h"
#include "net/sparse_net.h"
#include "step/optimizer.h"

namespace secateur {

class NetStep final : private GradientSink {
 public:
  explicit NetStep(std::shared_ptr<SparseNet> net);
  NetStep(const NetStep&) = delete;

  // A trained parameter; `keep` tells for each active value whether it may change (null: all).
  void set_parameter(int slot, const Parameter& parameter, const float* keep);
  // Something that is not trained: a running statistic.
  void set_constant(int slot, float* value) { slots_.at(size_t(slot)) = value; }
  const SparseNet& net() const { return *net_; }
  Optimizer& optimizer() { return optimizer_; }
  // How many of the threads offered a batch of this size is worth, each part of it.
  int threads_worth(int threads, int64_t samples) const {
    return net_->threads_worth(threads, samples / net_->parts(samples));
  }
  // Takes the memory of a step that is not needed any more.
  void take_room(NetStep& other) { room_ = std::move(other.room_), other.release(); }
  // What it keeps between steps, beside the weights; the next step takes it anew.
  int64_t room_bytes() const { return room_.bytes(); }
  void release() { room_.release(), samples_ = 0; }

  // Mean loss of the batch before the update. x: contiguous samples; throws std::invalid_argument for labels that
  // are no class.
  double step(const float* x, const int64_t* labels, int64_t samples, int threads, bool split);

 private:
  struct Trained : Parameter {
    const float* keep = nullptr;
    Room gradient;  // of parameters that no layer streams to `take`
  };

  bool trains(int slot) const override { return trained_[size_t(slot)].value; }
  void take(int slot, Range, float* gradient) const override;
  void prepare(int64_t samples, int threads);
  void run(const NetCall&, int64_t first, int64_t samples, const int64_t* labels);

  std::shared_ptr<SparseNet> net_;
  std::vector<float*> slots_, gradients_;
  std::vector<Trained> trained_;  // per slot
  Optimizer optimizer_;
  std::vector<double> losses_;
  Room room_;
  NetLayout layout_, last_;  // of a part of the batch, and of the last part
  int64_t samples_ = 0;      // for which they are
};

}  // namespace secateur
