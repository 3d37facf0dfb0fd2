// Sparse linear layers one after the other, with a ReLU between them, in one call.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "layers/sparse_layer.h"

namespace secateur {

// One thread's part of a call.
struct Part {
  const SparseKernels& kernels;
  Barrier& barrier;
  int thread, threads;
  int row_part, row_parts;
  int32_t tiles;   // of the whole batch
  Range my_tiles;  // of this thread

  Part(const SparseKernels&, Barrier&, int thread, int threads, int32_t tiles);
  void wait() const { barrier.wait(threads); }
  // After a stage whose results are read by threads with the same tiles only.
  void wait_for_rows() const {
    if (row_parts > 1) barrier.wait(threads);
  }
};

// A chain of layers and the buffers that one call fills. The activations lie in `work`, feature-major: the packed
// input, then each layer's output.
class SparseChain {
 public:
  explicit SparseChain(std::vector<std::shared_ptr<const SparseLayer>> layers);

  static int64_t leading_dimension(int64_t samples);
  int64_t work_floats(int64_t samples) const { return work_rows_ * leading_dimension(samples); }
  // Of them, those that a backward pass asks for: all but the last layer's outputs, which lie at the end.
  int64_t kept_floats(int64_t samples) const { return first_row_[size()] * leading_dimension(samples); }
  size_t size() const { return layers_.size(); }
  const SparseLayer& layer(size_t i) const { return *layers_[i]; }
  int threads_worth(int threads, int64_t samples) const;

  // The row of `work` where the input (0) or the output of layer i − 1 begins; gradients lie likewise.
  int64_t first_row(size_t i) const { return first_row_[i]; }
  // The entry where layer i's values begin in a buffer that holds all of them.
  int64_t first_entry(size_t i) const { return first_entry_[i]; }

  // The stages of a call, each run by every thread of the team.
  void pack_input(const Part&, const float* x, int64_t stride, int64_t samples, float* work, int64_t ld) const;
  void forward(const Part&, const float* const* values, const float* const* biases, float* work, int64_t ld) const;
  // All of an inference: packs the input, computes, and writes the last layer's outputs, one row per sample.
  void infer(const Part&, const float* const* values, const float* const* biases, const float* x, int64_t stride,
             int64_t samples, float* work, int64_t ld, float* out, int64_t out_stride) const;
  // Values in transposed order, for the layers from `first` on. Threads with fewer tiles take more.
  void transpose_values(const Part&, const float* const* values, size_t first, float* transposed) const;
  // From the gradient of layer i's output down to that of the input of layer `first`.
  void backward(const Part&, const float* const* values, const float* transposed, const float* work, size_t first,
                float* gradients, int64_t ld) const;

 private:
  std::vector<std::shared_ptr<const SparseLayer>> layers_;
  std::vector<int64_t> first_row_;  // in `work`, of the input and of each layer's output
  std::vector<int64_t> first_entry_;
  int64_t work_rows_ = 0;
};

}  // namespace secateur
