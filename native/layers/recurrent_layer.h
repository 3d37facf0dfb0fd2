// One direction of one sparse LSTM or GRU layer: where its weights are, and a chunk of samples run through time.

#pragma once

#include <cstdint>
#include <vector>

#include "base/team.h"
#include "kernels/recurrent_kernels.h"
#include "kernels/sparse_kernels.h"

namespace secateur {

// The tables of the instruction set in use.
struct Tables {
  const SparseKernels& linear;
  const RecurrentKernels& recurrent;
};
Tables tables();

// Some tiles of a batch. Its activations lie at rows · 16 · tile0 in a buffer that holds a whole batch.
struct Chunk {
  int32_t tile0, tiles;

  int32_t width() const { return tiles * kTileSamples; }
  // Piece `index` of `count` of a batch of `tiles` tiles.
  static Chunk of(int32_t tiles, int index, int count);
  // How many pieces suit a batch: an equal number for each thread, each small enough for the caches.
  static int count_for(int32_t tiles, int threads);
  // The width of the widest of `count` pieces.
  static int64_t widest(int32_t tiles, int count) { return int64_t(tiles + count - 1) / count * kTileSamples; }
};

// Row-major samples to a chunk's rows and back; the sample stride is in floats.
class Packer {
 public:
  // `alive[f]`: whether feature f is wanted at all; empty: all are.
  explicit Packer(int32_t features, const std::vector<bool>& alive = {});
  void pack(const Tables&, const float* x, int64_t stride, int64_t samples, Chunk chunk, float* rows) const;
  void unpack(const Tables&, const float* rows, int64_t samples, Chunk chunk, float* x, int64_t stride) const;

 private:
  int32_t features_;
  std::vector<PackGroup> groups_;
};

class RecurrentLayer {
 public:
  // Positions of the surviving weights, `row · columns + column`, ascending, of W_ih [gates · units, inputs] and
  // W_hh [gates · units, units], gates in torch's order. Throws std::invalid_argument for anything else, so that
  // the kernels need not check.
  RecurrentLayer(bool gru, int64_t inputs, int64_t units, const int64_t* ih, int64_t ih_count, const int64_t* hh,
                 int64_t hh_count);

  bool gru() const { return gru_; }
  int32_t inputs() const { return inputs_; }
  int32_t units() const { return units_; }
  int32_t gates() const { return gru_ ? 3 : 4; }
  int64_t count() const { return int64_t(columns_.size()); }
  const Packer& input_packer() const { return input_packer_; }
  const Packer& state_packer() const { return state_packer_; }

  // All numbers of a layer in one vector: the entries of M by row, padding, then M's 4 · units biases.
  int64_t first_bias() const { return (count() + 15) / 16 * 16; }
  int64_t numbers() const { return first_bias() + kSlots * int64_t(units_); }
  // Where the surviving weights and torch's biases lie among these numbers; torch's two biases share a place
  // where they are simply added.
  const std::vector<int32_t>& input_places() const { return input_places_; }
  const std::vector<int32_t>& state_places() const { return state_places_; }
  int32_t bias_place(bool of_state, int32_t gate_row) const;
  // back[k] for the entries of Mᵀ in `range`.
  void transpose(const Tables&, const float* numbers, Range range, float* back) const;

  // Floats for each sample that the activations of `steps` steps take; without `keep` only what goes forward.
  int64_t rows(int64_t steps, bool keep) const;

  // A chunk's activations in memory: inputs and states [x; h], slots, and LSTM's cell states.
  struct Trace {
    float *input, *slots, *state, *squashed;
    int64_t input_stride, slot_stride, state_stride, squashed_stride;
    int32_t width, steps;

    float* x(int64_t step) const { return input + step * input_stride; }
  };
  Trace trace(float* buffer, Chunk chunk, int64_t steps, bool keep) const;
  // The state h before `step`; those of LSTM's cell lie in trace.state.
  float* h(const Trace& trace, int64_t step, bool keep = true) const;

  // One step of a chunk whose x(step) and h(step) are there; makes h(step + 1).
  void forward(const Tables&, const float* numbers, const Trace&, int64_t step, bool keep) const;
  // The gradients of the slots before activation, of the last steps that went backward.
  struct Ring {
    float* first;
    int64_t stride;
    int64_t steps;

    float* operator()(int64_t step) const { return first + step % steps * stride; }
  };
  // Floats for each sample of a chunk of this width; steps [n · at_once, (n + 1) · at_once) are adjacent.
  int64_t ring_rows(int32_t width) const { return 2 * steps_at_once(width) * kSlots * int64_t(units_); }
  Ring ring(float* buffer, int32_t width) const;
  static int64_t steps_at_once(int32_t width);

  // One step back; steps come from the last to the first. `dlast`: of the state after the last step.
  void backward(const Tables&, const float* back, const Trace&, const Ring&, int64_t step, const float* dy,
                const float* dlast, float* carry) const;
  // The gradients of x(step), once `step` has gone backward; those of the first state, once step 0 has.
  void input_gradient(const Tables&, const float* back, const Ring&, int64_t step, int32_t width, float* dx) const;
  void first_state_gradient(const Tables&, const float* back, const Ring&, int32_t width, const float* carry,
                            float* dh) const;
  // Adds the gradients of weights and biases of the steps from `begin`, a multiple of steps_at_once, to `end`.
  void add_gradients(const Tables&, const Trace&, const Ring&, int64_t begin, int64_t end, bool biases,
                     float* numbers) const;

 private:
  void add_entries(const int64_t* positions, int64_t count, bool of_state);
  void finish(int64_t ih_count);
  CellProduct product(const float* numbers, const float* back) const;
  Product transposed_product(const float* back, int32_t row, int32_t rows, const float* x, float* y, int32_t width) const;

  bool gru_;
  int32_t inputs_, units_;
  std::vector<int32_t> starts_, row_, columns_;
  std::vector<int32_t> back_starts_, back_rows_, order_;
  std::vector<int32_t> input_places_, state_places_;
  Packer input_packer_, state_packer_;
};

}  // namespace secateur
