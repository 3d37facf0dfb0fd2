#include "net_step.h"

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace secateur {

std::unique_ptr<float, FreeFloats> zero_floats(int64_t count) {
  const size_t bytes = size_t((count * 4 + 4095) / 4096 * 4096);
  std::unique_ptr<float, FreeFloats> made(static_cast<float*>(std::aligned_alloc(4096, bytes)));
  if (!made) throw std::bad_alloc();
  std::memset(made.get(), 0, bytes);
  return made;
}

NetStep::NetStep(std::shared_ptr<SparseNet> net) : net_(std::move(net)) {
  slots_.assign(net_->slots(), nullptr);
  gradients_.assign(net_->slots(), nullptr);
}

void NetStep::set_parameter(int slot, float* value, float* first, float* second, const float* keep, int64_t count,
                            int group) {
  slots_.at(size_t(slot)) = value;
  gradient_floats_.push_back(zero_floats(count + 16));
  gradients_[size_t(slot)] = gradient_floats_.back().get();
  parameters_.push_back({value, first, second, keep, count, group, slot});
  if (int(options_.size()) <= group) options_.resize(size_t(group) + 1);
}

void NetStep::prepare(int64_t samples) {
  if (layout_.samples != samples) {
    work_.reset();
    layout_ = net_->layout(samples);
    work_ = zero_floats(layout_.floats);
  }
  losses_.assign(size_t(layout_.tiles), 0.0);
  ++steps_;
  rates_.clear();
  for (const OptimizerOptions& o : options_) rates_.push_back(OptimizerRates::at(o, steps_));
}

double NetStep::step(const float* x, const int64_t* labels, int64_t samples, int threads) {
  if (samples < 1) throw std::invalid_argument("a step needs at least one sample, got 0");
  const int64_t classes = net_->output().features();
  for (int64_t i = 0; i < samples; ++i) {
    if (labels[i] < 0 || labels[i] >= classes)
      throw std::invalid_argument("`targets` must be class numbers in [0, " + std::to_string(classes) + "), got " +
                                  std::to_string(labels[i]) + " at index " + std::to_string(i));
  }
  prepare(samples);
  Barrier barrier;
  run_team(net_->threads_worth(threads, samples), [&](int thread, int team) {
    run(NetCall{layout_, work_.get(), slots_, &gradients_, true, false, barrier, thread, team}, x, labels);
  });
  double loss = 0;
  for (double l : losses_) loss += l;
  return loss / double(samples);
}

void NetStep::run(const NetCall& call, const float* x, const int64_t* labels) {
  net_->pack_input(call, x);
  net_->prepare_backward(call);  // the weights do not change before the update
  net_->forward(call);
  const float* logits = call.value(net_->output_index()).at;
  float* gradient = call.gradient(net_->output_index()).at;
  const Range tiles = share(layout_.tiles, call.thread, call.threads);
  for (int64_t t = tiles.begin; t < tiles.end; ++t)
    losses_[size_t(t)] =
        call.linear.cross_entropy(logits, layout_.ld, int32_t(net_->output().features()), layout_.samples, labels,
                                  int32_t(t), int32_t(t) + 1, gradient);
  call.wait();
  net_->backward(call);
  for (const Parameter& parameter : parameters_) update(call, parameter);
}

void NetStep::update(const NetCall& call, const Parameter& p) const {
  const Range mine = share(p.count, call.thread, call.threads, 16);
  float* gradient = gradients_[size_t(p.slot)];
  const int64_t k = mine.begin, count = mine.end - mine.begin;
  if (count == 0) return;
  if (p.keep) {
    for (int64_t i = mine.begin; i < mine.end; ++i) gradient[i] *= p.keep[i];
  }
  rates_[size_t(p.group)].apply(call.linear, count, gradient + k, p.value + k, p.first ? p.first + k : nullptr,
                                p.second ? p.second + k : nullptr);
}

}  // namespace secateur
