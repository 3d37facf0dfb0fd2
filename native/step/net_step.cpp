#include "step/net_step.h"

namespace secateur {

NetStep::NetStep(std::shared_ptr<SparseNet> net) : net_(std::move(net)), trained_(net_->slots().size()) {
  net_->layout(1);  // throws unless it is finished
  slots_.assign(net_->slots().size(), nullptr);
  gradients_.assign(net_->slots().size(), nullptr);
}

void NetStep::set_parameter(int slot, const Parameter& parameter, const float* keep) {
  Trained& trained = trained_.at(size_t(slot));
  if (parameter.active != net_->slots()[size_t(slot)].length)
    throw std::invalid_argument("a parameter must have as many active values as its slot is long");
  static_cast<Parameter&>(trained) = parameter;
  trained.keep = keep;
  slots_[size_t(slot)] = parameter.value;
  if (!net_->streams(slot)) gradients_[size_t(slot)] = trained.gradient.zeros(parameter.count + 16);
  optimizer_.add_group(parameter.group);
}

void NetStep::prepare(int64_t samples, int threads) {
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (net_->slots()[slot].needed && net_->slots()[slot].length && !slots_[slot])
      throw std::invalid_argument(std::string("the step was not given its `") + net_->slots()[slot].name + "`");
    if (trained_[slot].value) optimizer_.check(trained_[slot]);
  }
  if (layout_.samples != samples) {
    layout_ = net_->layout(samples);
    room_.zeros(layout_.floats);
  }
  losses_.assign(size_t(layout_.tiles), 0.0);
  net_->index_gradients(false, threads);
  optimizer_.begin_step();
}

double NetStep::step(const float* x, const int64_t* labels, int64_t samples, int threads) {
  check_labels(labels, samples, net_->output().features());
  prepare(samples, threads);
  Barrier barrier;
  run_team(net_->threads_worth(threads, samples), [&](int thread, int team) {
    run(NetCall{layout_, room_.at(), slots_, &gradients_, true, false, barrier, thread, team,
                net_->grid(team, layout_), x, this},
        x, labels);
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
  // In a chain a thread has computed these tiles itself.
  const Range tiles = share(layout_.tiles, call.thread, call.threads);
  for (int64_t t = tiles.begin; t < tiles.end; ++t)
    losses_[size_t(t)] =
        call.linear.cross_entropy(logits, layout_.ld, int32_t(net_->output().features()), layout_.samples, labels,
                                  int32_t(t), int32_t(t) + 1, gradient);
  call.wait();
  net_->backward(call);
  for (size_t slot = 0; slot < trained_.size(); ++slot) {
    const Trained& p = trained_[slot];
    if (!p.value) continue;
    const Range mine = share(p.active, call.thread, call.threads, 16);
    if (gradients_[slot] && mine.begin < mine.end) take(int(slot), mine, gradients_[slot] + mine.begin);
    if (call.thread == 0) optimizer_.update_idle(call.linear, p);
  }
}

void NetStep::take(int slot, Range range, float* gradient) const {
  const Trained& p = trained_[size_t(slot)];
  if (p.keep) {
    for (int64_t i = range.begin; i < range.end; ++i) gradient[i - range.begin] *= p.keep[i];
  }
  optimizer_.update(SECATEUR_TABLE(sparse_kernels), p, range, gradient);
}

}  // namespace secateur
