// A whole network in the convolutions' layout: sparse convolutions and linear layers, normalisation, ReLU, pooling
// and addition, forward and backward, with nothing repacked between them.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/plane_kernels.h"
#include "layers/conv_layer.h"
#include "layers/sparse_layer.h"
#include "net/slot.h"

namespace secateur {

// The values between two layers. Flat ones are feature-major with the whole batch innermost, as linear layers want
// them; the others lie in tiles of 16 samples with a halo, as convolutions do.
struct NetBuffer {
  int32_t channels, height, width;
  bool flat = false;
  bool fixed = false;  // its layout cannot change any more: a convolution reads or writes it
  bool taken = false;  // by a linear layer, which must be the only reader
  int gradient_of = -1;  // the buffer whose gradient lies in the same place: half the memory to move
  bool passing = false;  // pooled as it is computed: there is no place for its values
  int readers = 0;
  Halo halo, gradient_halo;

  int64_t features() const { return int64_t(channels) * height * width; }
};

// Planes in a workspace that is not there yet: `at` counts floats from its beginning.
struct NetPlace {
  int64_t at = 0, tile = 0, channel = 0, row = 0, step = 0;
};

// Where everything lies in the workspace of one batch size, in floats.
struct NetLayout {
  int64_t samples = 0, ld = 0, floats = 0;
  int64_t forward_floats = 0;  // without the gradients, which come last
  int32_t tiles = 0;
  int parts = 1;  // of a batch, each in a pass of its own; `samples` are those of one
  std::vector<NetPlace> values, gradients;  // per buffer
  std::vector<int64_t> own;                 // per node: where its own floats begin
};

// Takes gradients as soon as they are known, so that nobody has to keep them.
class GradientSink {
 public:
  // Whether this slot is trained.
  virtual bool trains(int slot) const = 0;
  // The gradients of these values; it may change the array.
  virtual void take(int slot, Range, float* gradient) const = 0;

 protected:
  ~GradientSink() = default;
};

// One thread's view of a call.
struct NetCall {
  const NetLayout& layout;
  float* work;
  const std::vector<float*>& slots;      // parameters and running statistics, null where there are none
  const std::vector<float*>* gradients;  // per slot; null where none is wanted
  bool training;
  bool input_gradient;
  Barrier& barrier;
  int thread, threads;
  Grid grid;                           // how linear layers are shared: `SparseNet::grid`
  const float* batch = nullptr;        // the inputs as they came, one row per sample; null where they are not at hand
  const GradientSink* sink = nullptr;  // for linear layers, which then leave `gradients` alone
  int part = 0;                        // of layout.parts; the sink takes gradients with the last one
  const SplitKernels* split = nullptr;  // what multiplies patches; null: in float32

  const SparseKernels& linear = SECATEUR_TABLE(sparse_kernels);
  const ConvKernels& convolution = SECATEUR_TABLE(conv_kernels);
  const PlaneKernels& plane = SECATEUR_TABLE(plane_kernels);
  const PoolKernels& pool = SECATEUR_TABLE(pool_kernels);
  const DenseKernels& dense = SECATEUR_TABLE(dense_kernels);

  void wait() const { barrier.wait(threads); }
  int row_part() const { return thread / grid.tile_parts; }
  Range tiles() const { return share(layout.tiles, thread % grid.tile_parts, grid.tile_parts); }
  Planes value(int buffer) const;
  Planes gradient(int buffer) const;
  Extent extent(const NetBuffer&) const;
  float* slot_gradient(int slot) const { return gradients ? (*gradients)[size_t(slot)] : nullptr; }
};

inline Plane channel_of(const Planes& p, int64_t channel) { return {p.at + channel * p.channel, p.tile, p.row, p.step}; }

class NetNode {
 public:
  NetNode(std::vector<int> inputs, int output, int slot) : inputs_(std::move(inputs)), output_(output), slot_(slot) {}
  virtual ~NetNode() = default;
  // Floats it needs from a forward pass to the backward pass, or during a call.
  virtual int64_t floats(const NetLayout&) const { return 0; }
  virtual void place(const NetLayout&) {}
  // Multiply-adds of one sample in a forward pass.
  virtual int64_t work() const { return 0; }
  // Whether the gradient of its only input may take the place of the gradient of its output.
  virtual bool in_place() const { return false; }
  // Whether its gradients go to the call's sink, where there is one.
  virtual bool streams() const { return false; }
  // Before the first layer computes.
  virtual bool prepares_forward() const { return false; }
  virtual void prepare_forward(const NetCall&, float*) const {}
  // Each thread does its part; the caller puts a barrier after it.
  virtual void forward(const NetCall&, float* own) const = 0;
  // Before the backward pass begins.
  virtual void prepare(const NetCall&, float*) const {}
  virtual void backward(const NetCall&, float* own) const = 0;
  // Writes down, with several threads, what only gradients ask for, before a team begins.
  virtual void index_gradients(bool, int) const {}
  // Of its parameters, if `backward` has not found them.
  virtual void gradients(const NetCall&, float*) const {}

  int slot() const { return slot_; }
  const std::vector<int>& inputs() const { return inputs_; }
  int output() const { return output_; }
  // For each input: whether the gradient is added to what another reader has left there; not computed at all
  // for the network's own input, unless the call wants it.
  std::vector<bool> adds;

 protected:
  bool wants_input_gradient(const NetCall& call, size_t input = 0) const {
    return inputs_[input] != 0 || call.input_gradient;
  }
  std::vector<int> inputs_;
  int output_;
  int slot_;  // its first parameter
};

class SparseNet {
 public:
  SparseNet(int32_t channels, int32_t height, int32_t width);
  SparseNet(const SparseNet&) = delete;

  // Each adds a layer behind buffer `input` and returns the buffer of its output.
  int add_convolution(int input, const ConvShape& shape, const int64_t* positions, int64_t count, bool relu);
  // `full`: it may be computed as a full matrix, if it keeps so many weights that this is faster.
  int add_linear(int input, std::shared_ptr<const SparseLayer> layer, bool relu, bool full);
  int add_norm(int input, double eps, double momentum, bool relu);
  int add_copy(int input, bool relu);
  int add_sum(int first, int second, bool relu);
  int add_pool(int input, const Pool& pool, bool maximum);
  // No layer follows; `output` is what the network returns. `flat`: it must end in a linear layer's layout.
  void finish(int output, bool flat);

  const NetBuffer& input() const { return buffers_.front(); }
  const NetBuffer& output() const { return buffers_.at(size_t(output_)); }
  const NetBuffer& image(int index) const { return buffers_.at(size_t(index)); }
  int output_index() const { return output_; }
  const std::vector<Slot>& slots() const { return slots_; }
  NetLayout layout(int64_t samples, int parts = 1) const;
  // In how many parts a step should compute a batch of this size, one after the other, so that what they read of the
  // activations stays in the cache. One where samples depend on one another, or where layers go by tiles of samples
  // anyway: only linear layers hold all samples of a feature in a row.
  int parts(int64_t samples) const;
  // How many of the threads offered a batch of this size is worth.
  int threads_worth(int threads, int64_t samples) const;
  Grid grid(int threads, const NetLayout&) const;
  bool streams(int slot) const;
  // What full matrices take beside the weights.
  int64_t full_bytes() const;

  // Stages of a call, run by every thread of a team. Those that another stage needs end with a barrier.
  void pack_input(const NetCall&, const float* x) const;
  void forward(const NetCall&) const;
  void prepare_backward(const NetCall&) const;
  // Before the team of a backward pass begins: what layers look up for gradients alone is written down once.
  void index_gradients(bool input_gradient, int threads) const;
  void pack_output_gradient(const NetCall&, const float* dy) const;
  void backward(const NetCall&) const;
  void unpack_output(const NetCall&, float* out) const;
  void unpack_input_gradient(const NetCall&, float* out) const;

 private:
  int add_buffer(int32_t channels, int32_t height, int32_t width);
  void join_pooling();
  void join_linear();
  void pass(const NetCall&) const;  // between two nodes
  int lanes(int input);      // the buffer itself, or a copy of it for convolutions
  int read(int input);       // notes another reader
  NetBuffer& buffer(int index);
  void pack(const NetCall&, const float* x, const NetBuffer&, const std::vector<PackGroup>&, const Planes& to) const;
  void unpack(const NetCall&, const NetBuffer&, const Planes& from, float* out) const;
  template <class Node, class... Rest>
  int append(std::vector<int> inputs, int output, const std::vector<Slot>& slots, Rest&&... rest);

  std::vector<NetBuffer> buffers_;
  std::vector<std::unique_ptr<NetNode>> nodes_;
  std::vector<PackGroup> input_groups_, output_groups_;
  std::vector<Slot> slots_;
  int output_ = -1;
  bool chain_ = false;     // nothing but linear layers: threads that have their own samples need not wait for each other
  bool prepares_ = false;  // some node prepares its forward pass
};

}  // namespace secateur
