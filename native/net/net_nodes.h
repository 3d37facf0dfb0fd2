// The layers of a SparseNet.

#pragma once

#include <memory>
#include <optional>

#include "net/full_matrix.h"
#include "net/sparse_net.h"

namespace secateur {

class PoolNode : public NetNode {
 public:
  PoolNode(std::vector<int> inputs, int output, int slot, const NetBuffer& buffer, const Pool& pool, bool maximum)
      : NetNode(std::move(inputs), output, slot), buffer_(buffer), pool_(pool), maximum_(maximum) {}
  int64_t floats(const NetLayout&) const override;
  void forward(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

  const Pool& pool() const { return pool_; }
  // Whether it takes the largest of windows that lie side by side and cover the image.
  bool covers_its_input() const;

 private:
  NetBuffer buffer_;  // the output's sizes
  Pool pool_;
  bool maximum_;
};

// A convolution, and the pooling behind it if that is the only reader: then a few rows at a time are computed and
// pooled while they are in the cache, and of the gradient nothing is stored but what the pooling gets.
class ConvolutionNode : public NetNode {
 public:
  ConvolutionNode(std::vector<int> inputs, int output, int slot, ConvLayer layer, bool relu)
      : NetNode(std::move(inputs), output, slot), layer_(std::move(layer)), relu_(relu) {}
  // Whether a pooling can become part of it, while the rows that it reads are in the cache.
  bool takes_pooling() const { return layer_.by_rows(); }
  void join(const PoolNode&);
  int64_t floats(const NetLayout&) const override;
  int64_t work() const override { return layer_.work(); }
  void place(const NetLayout&) override;
  void prepare_forward(const NetCall&, float* own) const override;
  void forward(const NetCall&, float* own) const override;
  void prepare(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;

 private:
  void forward_pooled(const NetCall&, float* own) const;
  void backward_pooled(const NetCall&, float* own) const;
  // Where the pooling's winners are: a byte for each of its outputs, by channel, tile, row, column and sample.
  uint8_t* winners(float* own) const;
  Extent pooled_extent(const NetCall&) const;

  ConvLayer layer_;
  bool relu_;
  std::optional<Pool> pool_;
  int pooled_ = -1;  // the buffer of its output
};

class LinearNode : public NetNode {
 public:
  LinearNode(std::vector<int> inputs, int output, int slot, std::shared_ptr<const SparseLayer> layer, bool relu,
             bool full);
  // The layer before this one, and its only reader: its ReLU's gradient becomes part of this product.
  void join(LinearNode& before);
  const SparseLayer& layer() const { return *layer_; }
  int64_t full_bytes() const { return full_ ? full_->bytes() : 0; }
  int64_t floats(const NetLayout&) const override;
  int64_t work() const override { return layer_->count(); }
  bool streams() const override { return true; }
  bool prepares_forward() const override { return full_ != nullptr; }
  void prepare_forward(const NetCall&, float* own) const override;
  void forward(const NetCall&, float* own) const override;
  void prepare(const NetCall&, float* own) const override;
  void backward(const NetCall&, float* own) const override;
  void gradients(const NetCall&, float* own) const override;
  void index_gradients(bool input_gradient, int threads) const override {
    if (!full_) layer_->prepare_gradients(inputs_[0] != 0 || input_gradient, threads);
  }

 private:
  template <class Compute>
  void hand_over(const NetCall&, int slot, int64_t count, Compute compute) const;
  void sum_gradients(const NetCall&, float* own) const;
  void multiply(const NetCall&, const DenseProduct&, int32_t rows) const;
  void full_gradients(const NetCall&, float* own) const;
  // In its own floats: the values in transposed order, then all of its gradients where they need several sweeps;
  // or the full matrix, then its inputs row by row.
  // A batch in several parts has sums of gradients at the end, weights and then biases.
  float* behind_values(float* own) const { return own + layer_->count() + 16; }
  float* inputs_by_row(float* own) const { return own + full_->floats(); }
  float* weight_sums(const NetCall& call, float* own) const;
  float* bias_sums(const NetCall& call, float* own) const { return weight_sums(call, own) + layer_->count() + 16; }

  std::shared_ptr<const SparseLayer> layer_;
  bool relu_;
  bool left_ = false;  // the ReLU's gradient, to the layer behind
  bool joined_ = false;
  std::unique_ptr<const FullMatrix> full_;
};

// Batch normalisation: slots γ, β, running mean, running variance.
class NormNode : public NetNode {
 public:
  NormNode(std::vector<int> inputs, int output, int slot, const NetBuffer& buffer, double eps, double momentum,
           bool relu)
      : NetNode(std::move(inputs), output, slot), buffer_(buffer), eps_(eps), momentum_(momentum), relu_(relu) {}
  int64_t floats(const NetLayout&) const override { return 2 * buffer_.channels; }
  bool in_place() const override { return true; }
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

}  // namespace secateur
