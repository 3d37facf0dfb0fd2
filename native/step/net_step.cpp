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
  if (samples_ != samples) {
    const int parts = net_->parts(samples);
    const int64_t each = parts > 1 ? (tiles_of(samples) + parts - 1) / parts * kTileSamples : samples;
    layout_ = net_->layout(each, int((samples + each - 1) / each));
    last_ = layout_;  // the same places, and perhaps fewer samples
    last_.samples = samples - each * (layout_.parts - 1);
    last_.tiles = tiles_of(last_.samples);
    room_.zeros(layout_.floats);
    samples_ = samples;
  }
  losses_.assign(size_t(tiles_of(samples)), 0.0);
  net_->index_gradients(false, threads);
  optimizer_.begin_step();
}

double NetStep::step(const float* x, const int64_t* labels, int64_t samples, int threads, bool split) {
  check_labels(labels, samples, net_->output().features());
  prepare(samples, threads);
  Barrier barrier;
  run_team(net_->threads_worth(threads, layout_.samples), [&](int thread, int team) {
    for (int part = 0; part < layout_.parts; ++part) {
      const int64_t first = part * layout_.samples;
      const NetLayout& layout = part + 1 < layout_.parts ? layout_ : last_;
      run(NetCall{layout, room_.at(), slots_, &gradients_, true, false, barrier, thread, team,
                  net_->grid(team, layout), x + first * net_->input().features(), this, part,
                  split ? split_kernels() : nullptr},
          first, samples, labels);
    }
  });
  double loss = 0;
  for (double l : losses_) loss += l;
  return loss / double(samples);
}

// One part of the batch, which begins with sample `first` of all `samples`.
void NetStep::run(const NetCall& call, int64_t first, int64_t samples, const int64_t* labels) {
  if (call.part) call.wait();  // its activations take the place of those that gradients were made of
  net_->pack_input(call, call.batch);
  if (!call.part) net_->prepare_backward(call);  // the weights do not change before the update
  net_->forward(call);
  const int64_t first_tile = first / kTileSamples;
  const float* logits = call.value(net_->output_index()).at - first;
  float* gradient = call.gradient(net_->output_index()).at - first;
  const Range tiles = share(call.layout.tiles, call.thread, call.threads);
  for (int64_t t = first_tile + tiles.begin; t < first_tile + tiles.end; ++t)
    losses_[size_t(t)] =
        call.linear.cross_entropy(logits, call.layout.ld, int32_t(net_->output().features()), samples, labels,
                                  int32_t(t), int32_t(t) + 1, gradient);
  call.wait();
  net_->backward(call);
  if (call.part + 1 < call.layout.parts) return;
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
