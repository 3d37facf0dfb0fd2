// Compiled once per instruction set. A unit's four rows are multiplied, then activated while they are in registers
// or the first-level cache: what is stored is what the way back needs.

#include "kernels/recurrent_kernels.h"

#include "base/vec.h"

namespace secateur::SECATEUR_ISA {
namespace {

// Accumulators of one pass. Four slots are alive at a time, so a pass is narrower than in a linear layer.
constexpr int kPassVecs = 4;

inline Vec absolute(Vec x) { return bits_to_float(float_to_bits(x) & 0x7fffffff); }

// A quotient that is not divided yet: a division takes as long as ten multiplications, so several share one.
struct Ratio {
  Vec above, below;
};

// 1 / (1 + e^−x), to about 2e-7 of its value on both sides, and 1 ≤ below ≤ 2; NaN stays NaN.
inline Ratio sigmoid_ratio(Vec x) {
  const Vec e = exp_of_negative(-absolute(x));
  return {x < 0.0f ? e : splat(1.0f), 1.0f + e};
}

// tanh x to about 3e-7 of its value: an odd polynomial over an even one (the coefficients of Eigen's ptanh), and
// 0.004 < below < 1. Beyond ±7.9 float32 cannot tell it from ±1; NaN stays NaN.
inline Ratio tangent_ratio(Vec x) {
  const float limit = 7.90531110763549805f;
  x = x > limit ? splat(limit) : x;
  x = x < -limit ? splat(-limit) : x;
  const Vec z = x * x;
  Vec p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * z + -8.60467152213735e-11f;
  p = p * z + 5.12229709037114e-08f;
  p = p * z + 1.48572235717979e-05f;
  p = p * z + 6.37261928875436e-04f;
  p = p * z + 4.89352455891786e-03f;
  Vec q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * z + 2.26843463243900e-03f;
  q = q * z + 4.89352518554385e-03f;
  return {x * p, q};
}

inline Vec sigmoid(Vec x) {
  const Ratio r = sigmoid_ratio(x);
  return r.above / r.below;
}

inline Vec tangent(Vec x) {
  const Ratio r = tangent_ratio(x);
  return r.above / r.below;
}

// ------------------------------------------------------------------ one row of a sparse product
template <int W>
inline void add_row(const int32_t* columns, const float* values, int64_t k, int64_t end, const float* x,
                    int64_t width, Vec* sum) {
  for (; k < end; ++k) {
    const float* column = x + columns[k] * width;
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) sum[i] += load(column + i * kLanes) * values[k];
  }
}

template <int W>
inline void slot_row(const CellProduct& p, const float* x, int64_t width, int32_t row, Vec* sum) {
  const Vec bias = splat(p.bias[row]);
#pragma GCC unroll 8
  for (int i = 0; i < W; ++i) sum[i] = bias;
  add_row<W>(p.columns, p.values, p.starts[row], p.starts[row + 1], x, width, sum);
}

// A row's sums for W vectors, as gates that are not divided yet. A row without weights is the same for all samples.
template <int W, Ratio (*Gate)(Vec)>
inline void gate_row(const CellProduct& p, const float* x, int64_t width, int32_t row, Ratio* gate) {
  if (p.starts[row] == p.starts[row + 1]) {
    const Ratio same = Gate(splat(p.bias[row]));
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) gate[i] = same;
    return;
  }
  Vec sum[W];
  slot_row<W>(p, x, width, row, sum);
#pragma GCC unroll 8
  for (int i = 0; i < W; ++i) gate[i] = Gate(sum[i]);
}

// The gradient of unit u's new state h, all that reaches it but the carry.
template <int W>
inline void state_gradient(const CellProduct& p, const CellStep& s, int32_t u, int64_t offset, Vec* sum) {
  const int64_t at = int64_t(u) * s.width + offset;
#pragma GCC unroll 8
  for (int i = 0; i < W; ++i) {
    sum[i] = s.dy ? load(s.dy + at + i * kLanes) : Vec{};
    if (s.dlast) sum[i] += load(s.dlast + at + i * kLanes);
  }
  if (!s.later) return;
  const int32_t row = p.inputs + u;
  add_row<W>(p.back_rows, p.back_values, p.back_starts[row], p.back_starts[row + 1], s.later + offset, s.width, sum);
}

// ------------------------------------------------------------------ LSTM
template <int W>
void lstm_forward_pass(const CellProduct& p, const CellStep& s, int64_t offset) {
  const int64_t width = s.width;
  const float* x = s.input + offset;
  for (int32_t u = 0; u < p.units; ++u) {
    const int64_t at = u * width + offset;
    float* slots = s.slots + kSlots * u * width + offset;
    Ratio in[W], forget[W], cell[W], out[W];
    gate_row<W, sigmoid_ratio>(p, x, width, kSlots * u, in);
    gate_row<W, sigmoid_ratio>(p, x, width, kSlots * u + 1, forget);
    gate_row<W, tangent_ratio>(p, x, width, kSlots * u + 2, cell);
    gate_row<W, sigmoid_ratio>(p, x, width, kSlots * u + 3, out);
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) {
      const int64_t lane = i * kLanes;
      const Vec first = in[i].below * forget[i].below, second = cell[i].below * out[i].below;
      const Vec inverse = 1.0f / (first * second);
      const Vec per_first = inverse * second, per_second = inverse * first;
      const Vec a = in[i].above * forget[i].below * per_first, f = forget[i].above * in[i].below * per_first;
      const Vec g = cell[i].above * out[i].below * per_second, o = out[i].above * cell[i].below * per_second;
      const Vec state = f * load(s.state + at + lane) + a * g;
      const Vec squashed = tangent(state);
      store(slots + lane, a);
      store(slots + width + lane, f);
      store(slots + 2 * width + lane, g);
      store(slots + 3 * width + lane, o);
      store(s.next_state + at + lane, state);
      store(s.squashed + at + lane, squashed);
      store(s.h + at + lane, o * squashed);
    }
  }
}

template <int W>
void lstm_backward_pass(const CellProduct& p, const CellStep& s, int64_t offset) {
  const int64_t width = s.width;
  for (int32_t u = 0; u < p.units; ++u) {
    const int64_t at = u * width + offset;
    const float* slots = s.slots + kSlots * u * width + offset;
    float* out = s.gradients + kSlots * u * width + offset;
    Vec dh[W];
    state_gradient<W>(p, s, u, offset, dh);
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) {
      const int64_t lane = i * kLanes;
      const Vec a = load(slots + lane), f = load(slots + width + lane);
      const Vec g = load(slots + 2 * width + lane), o = load(slots + 3 * width + lane);
      const Vec squashed = load(s.squashed + at + lane), before = load(s.state + at + lane);
      const Vec dc = load(s.carry + at + lane) + dh[i] * o * (1.0f - squashed * squashed);
      store(out + lane, dc * g * a * (1.0f - a));
      store(out + width + lane, dc * before * f * (1.0f - f));
      store(out + 2 * width + lane, dc * a * (1.0f - g * g));
      store(out + 3 * width + lane, dh[i] * squashed * o * (1.0f - o));
      store(s.carry + at + lane, dc * f);
    }
  }
}

// ------------------------------------------------------------------ GRU
template <int W>
void gru_forward_pass(const CellProduct& p, const CellStep& s, int64_t offset) {
  const int64_t width = s.width;
  const float* x = s.input + offset;
  for (int32_t u = 0; u < p.units; ++u) {
    const int64_t at = u * width + offset;
    float* slots = s.slots + kSlots * u * width + offset;
    const float* before = x + (p.inputs + u) * width;
    Ratio reset[W], update[W];
    Vec from_input[W], from_state[W];
    gate_row<W, sigmoid_ratio>(p, x, width, kSlots * u, reset);
    gate_row<W, sigmoid_ratio>(p, x, width, kSlots * u + 1, update);
    slot_row<W>(p, x, width, kSlots * u + 2, from_input);
    slot_row<W>(p, x, width, kSlots * u + 3, from_state);
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) {
      const int64_t lane = i * kLanes;
      const Vec inverse = 1.0f / (reset[i].below * update[i].below);
      const Vec r = reset[i].above * update[i].below * inverse, z = update[i].above * reset[i].below * inverse;
      const Vec n = tangent(from_input[i] + r * from_state[i]);
      store(slots + lane, r);
      store(slots + width + lane, z);
      store(slots + 2 * width + lane, n);
      store(slots + 3 * width + lane, from_state[i]);
      store(s.h + at + lane, n + z * (load(before + lane) - n));
    }
  }
}

template <int W>
void gru_backward_pass(const CellProduct& p, const CellStep& s, int64_t offset) {
  const int64_t width = s.width;
  for (int32_t u = 0; u < p.units; ++u) {
    const int64_t at = u * width + offset;
    const float* slots = s.slots + kSlots * u * width + offset;
    float* out = s.gradients + kSlots * u * width + offset;
    const float* before = s.input + (p.inputs + u) * width + offset;
    Vec dh[W];
    state_gradient<W>(p, s, u, offset, dh);
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) {
      const int64_t lane = i * kLanes;
      const Vec r = load(slots + lane), z = load(slots + width + lane);
      const Vec n = load(slots + 2 * width + lane), from_state = load(slots + 3 * width + lane);
      const Vec d = dh[i] + load(s.carry + at + lane);
      const Vec dn = d * (1.0f - z) * (1.0f - n * n);
      store(out + lane, dn * from_state * r * (1.0f - r));
      store(out + width + lane, d * (load(before + lane) - n) * z * (1.0f - z));
      store(out + 2 * width + lane, dn);
      store(out + 3 * width + lane, dn * r);
      store(s.carry + at + lane, d * z);
    }
  }
}

// Cuts a step's samples into passes of at most kPassVecs vectors.
#define SECATEUR_PASSES(name)                                                          \
  void name(const CellProduct& p, const CellStep& s) {                                 \
    const int vecs = s.width / kLanes;                                                 \
    for (int done = 0; done < vecs;) {                                                 \
      const int64_t offset = int64_t(done) * kLanes;                                   \
      switch (vecs - done) {                                                           \
        case 1: name##_pass<1>(p, s, offset); done += 1; break;                        \
        case 2: name##_pass<2>(p, s, offset); done += 2; break;                        \
        case 3: name##_pass<3>(p, s, offset); done += 3; break;                        \
        default: name##_pass<kPassVecs>(p, s, offset); done += kPassVecs; break;       \
      }                                                                                \
    }                                                                                  \
  }
SECATEUR_PASSES(lstm_forward)
SECATEUR_PASSES(lstm_backward)
SECATEUR_PASSES(gru_forward)
SECATEUR_PASSES(gru_backward)

// ------------------------------------------------------------------ gradient of the weights
#if defined(__x86_64__)
#define SECATEUR_PIN_VECTOR(variable) asm volatile("" : "+v"(variable))
#else
#define SECATEUR_PIN_VECTOR(variable)
#endif

template <int W>
struct StepsGroup {
  const StepsProduct& p;
  const int32_t* row;
  const int32_t* column;
  int64_t offset;

  inline __attribute__((always_inline)) Vec partial(int entry) const {
    const float* d = p.gradients + row[entry] * int64_t(p.width) + offset;
    const float* x = p.input + column[entry] * int64_t(p.width) + offset;
    Vec s{};
    for (int32_t t = 0; t < p.steps; ++t) {
#pragma GCC unroll 8
      for (int i = 0; i < W; ++i) s += load(d + i * kLanes) * load(x + i * kLanes);
      d += p.gradient_stride;
      x += p.input_stride;
    }
    // Without it the compiler holds the loads of several entries at once, more than there are registers.
    SECATEUR_PIN_VECTOR(s);
    return s;
  }

  template <int First, int Step>
  inline __attribute__((always_inline)) Vec reduce() const {
    if constexpr (Step == kLanes) {
      return partial(First);
    } else {
      const Vec a = reduce<First, Step * 2>();
      const Vec b = reduce<First + Step, Step * 2>();
      return interleave_low(a, b) + interleave_high(a, b);
    }
  }
};

template <int W>
void weight_gradient_pass(const StepsProduct& p, int64_t k0, int64_t k1, int64_t offset, float* out) {
  int64_t k = k0;
  for (; k + kLanes <= k1; k += kLanes, out += kLanes)
    store(out, load(out) + StepsGroup<W>{p, p.row + k, p.column + k, offset}.template reduce<0, 1>());
  if (k == k1) return;
  int32_t row[kLanes], column[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    row[i] = p.row[k + i < k1 ? k + i : k1 - 1];
    column[i] = p.column[k + i < k1 ? k + i : k1 - 1];
  }
  const Vec g = StepsGroup<W>{p, row, column, offset}.template reduce<0, 1>();
  for (int i = 0; i < k1 - k; ++i) out[i] += g[i];
}

void weight_gradient(const StepsProduct& p, int64_t k0, int64_t k1, float* out) {
  const int vecs = p.width / kLanes;
  for (int done = 0; done < vecs;) {
    const int64_t offset = int64_t(done) * kLanes;
    switch (vecs - done) {
      case 1: weight_gradient_pass<1>(p, k0, k1, offset, out); done += 1; break;
      case 2: weight_gradient_pass<2>(p, k0, k1, offset, out); done += 2; break;
      case 3: weight_gradient_pass<3>(p, k0, k1, offset, out); done += 3; break;
      default: weight_gradient_pass<4>(p, k0, k1, offset, out); done += 4; break;
    }
  }
}

void bias_gradient(const StepsProduct& p, int32_t row0, int32_t row1, float* out) {
  const int vecs = p.width / kLanes;
  for (int32_t r = row0; r < row1; ++r) {
    Vec s{};
    for (int32_t t = 0; t < p.steps; ++t) {
      const float* d = p.gradients + r * int64_t(p.width) + t * p.gradient_stride;
      for (int i = 0; i < vecs; ++i) s += load(d + i * kLanes);
    }
    out[r - row0] += sum(s);
  }
}

// ------------------------------------------------------------------ whole arrays
void add(int64_t count, const float* x, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] += x[i];
}

template <Vec (*Function)(Vec)>
void apply(int64_t count, const float* x, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, Function(load(x + i)));
  float rest[kLanes] = {};
  for (int64_t j = i; j < count; ++j) rest[j - i] = x[j];
  const Vec y = Function(load(rest));
  for (int64_t j = i; j < count; ++j) out[j] = y[j - i];
}

}  // namespace

extern const RecurrentKernels recurrent_kernels = {
    lstm_forward, lstm_backward, gru_forward, gru_backward, weight_gradient, bias_gradient, add,
    apply<sigmoid>, apply<tangent>,
};

}  // namespace secateur::SECATEUR_ISA
