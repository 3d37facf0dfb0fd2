// The inner loops of sparse LSTM and GRU layers, one table per instruction set.
//
// A layer is one sparse matrix M. Its columns are the inputs x and then the previous state h; its rows are four
// slots for each unit, row 4u + s for slot s of unit u:
//     LSTM   input gate, forget gate, cell, output gate      (all of x and h)
//     GRU    reset gate, update gate (x and h), new state's input part (x only) and recurrent part (h only)
// so that both cells take one product M [x; h] per step, one Mᵀ for the way back, and one sampled product for the
// gradient of the weights; only the arithmetic within a unit differs.
//
// Samples are cut into chunks that never meet: a chunk runs through all time steps on its own. Within a chunk
// everything is feature-major, `width` floats (whole tiles of 16 samples) per row, without gaps.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur {

constexpr int kSlots = 4;

struct CellProduct {
  int32_t inputs, units;
  const int32_t* starts;  // of the 4 · units rows, and the end
  const int32_t* columns;
  const float* values;
  const float* bias;  // one per row
  // Mᵀ: inputs + units rows
  const int32_t* back_starts;
  const int32_t* back_rows;
  const float* back_values;
};

// One time step of one chunk. Forward writes slots, state and h, backward the gradients of the slots.
struct CellStep {
  int32_t width;
  const float* input;     // [x; h before], inputs + units rows
  float* slots;           // 4 · units rows: the activated gates
  float* gradients;       // backward: gradients of the slots before activation, 4 · units rows
  const float* state;     // LSTM: the cell's state before the step, units rows
  float* next_state;      // … and after it; may be `state`
  float* squashed;        // LSTM: tanh of the state after the step
  float* h;               // forward: the new state h
  const float* later;     // backward: `gradients` of the step after this one, or null
  const float* dy;        // backward: gradient of h as an output, or null
  const float* dlast;     // backward: gradient of h as the last state, or null
  float* carry;           // backward: the gradient that flows along the state, units rows
};

// out[k] += Σ over steps and samples of gradients[row[k]] · input[column[k]].
struct StepsProduct {
  const int32_t* row;
  const int32_t* column;
  const float* gradients;
  int64_t gradient_stride;  // floats from one step to the next
  const float* input;
  int64_t input_stride;
  int32_t steps, width;
};

struct RecurrentKernels {
  void (*lstm_forward)(const CellProduct&, const CellStep&);
  void (*lstm_backward)(const CellProduct&, const CellStep&);
  void (*gru_forward)(const CellProduct&, const CellStep&);
  void (*gru_backward)(const CellProduct&, const CellStep&);
  void (*weight_gradient)(const StepsProduct&, int64_t k0, int64_t k1, float* out);
  void (*bias_gradient)(const StepsProduct&, int32_t row0, int32_t row1, float* out);
  void (*add)(int64_t count, const float* x, float* out);
  void (*sigmoid)(int64_t count, const float* x, float* out);
  void (*tanh)(int64_t count, const float* x, float* out);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(RecurrentKernels, recurrent_kernels)
