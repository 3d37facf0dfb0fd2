// The layers of a SparseNet.

#pragma once

#include <memory>

#include "sparse_net.h"

namespace secateur {

class ConvolutionNode : public NetNode {
 public:
  ConvolutionNode(std::vector<int> inputs, int output, int slot, ConvLayer layer, bool relu)
      : NetNode(std::move(inputs), output, slot), layer_(std::move(layer)), relu_(relu) {}
  int64_t floats(const NetLayout&) const override { return layer_.floats(); }
  int64_t work() const override { return layer_.work(); }
  void place(const NetLayout&) override;
  void prepare_forward(const NetCall&, float* own) const override;
  void forward(const NetCall&, float* own) const override;
  void prepare(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  ConvLayer layer_;
  bool relu_;
};

class LinearNode : public NetNode {
 public:
  LinearNode(std::vector<int> inputs, int output, int slot, std::shared_ptr<const SparseLayer> layer, bool relu)
      : NetNode(std::move(inputs), output, slot), layer_(std::move(layer)), relu_(relu) {}
  int64_t floats(const NetLayout&) const override { return layer_->count(); }
  int64_t work() const override { return layer_->count(); }
  void forward(const NetCall&, float* own) const override;
  void prepare(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  std::shared_ptr<const SparseLayer> layer_;
  bool relu_;
};

// Batch normalisation: slots γ, β, running mean, running variance.
class NormNode : public NetNode {
 public:
  NormNode(std::vector<int> inputs, int output, int slot, const NetBuffer& buffer, double eps, double momentum,
           bool relu)
      : NetNode(std::move(inputs), output, slot), buffer_(buffer), eps_(eps), momentum_(momentum), relu_(relu) {}
  int64_t floats(const NetLayout&) const override { return 2 * buffer_.channels; }
  void forward(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  Norm norm(const NetCall&, const float* own, int64_t channel) const;

  NetBuffer buffer_;  // its sizes
  double eps_, momentum_;
  bool relu_;
};

// y = x or max(x, 0), from one layout to the other if need be.
class CopyNode : public NetNode {
 public:
  CopyNode(std::vector<int> inputs, int output, int slot, const NetBuffer& buffer, bool relu)
      : NetNode(std::move(inputs), output, slot), buffer_(buffer), relu_(relu) {}
  void forward(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  NetBuffer buffer_;
  bool relu_;
};

class SumNode : public NetNode {
 public:
  SumNode(std::vector<int> inputs, int output, int slot, const NetBuffer& buffer, bool relu)
      : NetNode(std::move(inputs), output, slot), buffer_(buffer), relu_(relu) {}
  void forward(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  NetBuffer buffer_;
  bool relu_;
};

class PoolNode : public NetNode {
 public:
  PoolNode(std::vector<int> inputs, int output, int slot, const NetBuffer& buffer, const Pool& pool, bool maximum)
      : NetNode(std::move(inputs), output, slot), buffer_(buffer), pool_(pool), maximum_(maximum) {}
  int64_t floats(const NetLayout&) const override;
  void forward(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  NetBuffer buffer_;  // the output's sizes
  Pool pool_;
  bool maximum_;
};

}  // namespace secateur
