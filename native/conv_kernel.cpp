// Compiled once per instruction set. Each multiply-add reads 64 bytes of x from the first- or second-level cache;
// the caller orders the work so that they are there (conv_layer.cpp).

#include "conv_kernels.h"

#include "vec.h"

namespace secateur::SECATEUR_ISA {
namespace {

// With the weight and one operand they fill the registers: 32 with AVX-512, else 16.
constexpr int kAccumulators = kLanes == 16 ? 24 : 12;

// ------------------------------------------------------------------ forward, and the gradient of the input
template <int G, int P, int Step>
void convolve_pass(const ConvPass& c, int32_t row0, int32_t row1, int lane) {
  const int32_t* offsets = c.offsets;
  const float* values = c.values;
  const float* x = c.x + lane;
  int64_t group[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) group[g] = c.x_group[g];
  for (int32_t r = row0; r < row1; ++r) {
    float* y = c.y + r * c.y_row + lane;
    Vec sum[G][P];
    const Vec bias = splat(c.bias ? c.bias[r] : 0.0f);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 24
      for (int i = 0; i < P; ++i) sum[g][i] = bias;
    }
    const int32_t end = c.starts[r + 1];
    for (int32_t k = c.starts[r]; k < end; ++k) {
      const float* at = x + offsets[k];
      const Vec w = splat(values[k]);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
#pragma GCC unroll 24
        for (int i = 0; i < P; ++i) sum[g][i] += load(at + group[g] + i * Step * kTile) * w;
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 24
      for (int i = 0; i < P; ++i) {
        float* place = y + c.y_group[g] + i * c.y_step;
        const Vec total = c.add ? sum[g][i] + load(place) : sum[g][i];
        store(place, c.relu ? relu(total) : total);
      }
    }
  }
}

using Pass = void (*)(const ConvPass&, int32_t, int32_t, int);

// Everything that fits the registers; the others are null and never asked for.
template <int G, int P, int Step>
constexpr Pass pass_of() {
  if constexpr (G * P <= kAccumulators) {
    return convolve_pass<G, P, Step>;
  } else {
    return nullptr;
  }
}

#define SECATEUR_PASSES(G, S)                                                                                        \
  {pass_of<G, 1, S>(), pass_of<G, 2, S>(), pass_of<G, 3, S>(), pass_of<G, 4, S>(), pass_of<G, 5, S>(),               \
   pass_of<G, 6, S>(), pass_of<G, 7, S>(), pass_of<G, 8, S>(), pass_of<G, 9, S>(), pass_of<G, 10, S>(),              \
   pass_of<G, 11, S>(), pass_of<G, 12, S>(), pass_of<G, 13, S>(), pass_of<G, 14, S>(), pass_of<G, 15, S>(),          \
   pass_of<G, 16, S>(), pass_of<G, 17, S>(), pass_of<G, 18, S>(), pass_of<G, 19, S>(), pass_of<G, 20, S>(),          \
   pass_of<G, 21, S>(), pass_of<G, 22, S>(), pass_of<G, 23, S>(), pass_of<G, 24, S>()}
#define SECATEUR_GROUPS(S)                                                                                           \
  {SECATEUR_PASSES(1, S), SECATEUR_PASSES(2, S), SECATEUR_PASSES(3, S), SECATEUR_PASSES(4, S),                       \
   SECATEUR_PASSES(5, S), SECATEUR_PASSES(6, S), SECATEUR_PASSES(7, S), SECATEUR_PASSES(8, S)}

constexpr Pass kPasses[2][kMostGroups][kMostPositions] = {SECATEUR_GROUPS(1), SECATEUR_GROUPS(2)};

void convolve(const ConvPass& c, int32_t row0, int32_t row1, int groups, int positions, int64_t step) {
  if (step > 2) {  // rare: one position after the other
    for (int i = 0; i < positions; ++i) {
      ConvPass one = c;
      one.x += i * step * kTile;
      one.y += i * c.y_step;
      for (int lane = 0; lane < kTile; lane += kLanes) kPasses[0][groups - 1][0](one, row0, row1, lane);
    }
    return;
  }
  const Pass pass = kPasses[step - 1][groups - 1][positions - 1];
  for (int lane = 0; lane < kTile; lane += kLanes) pass(c, row0, row1, lane);
}

// ------------------------------------------------------------------ the gradient of the weights
constexpr int kTaps = kLanes < 8 ? kLanes : 8;

template <int N>
inline __attribute__((always_inline)) void accumulate(const ConvGradient& c, const int32_t* offsets, Vec* sum) {
  Vec total[N] = {};
  for (int32_t t = 0; t < c.tiles; ++t) {
    for (int32_t row = 0; row < c.rows; ++row) {
      const float* dy = c.dy + t * c.dy_tile + row * c.dy_row;
      const float* x = c.x + t * c.x_tile + row * c.x_row;
      const float* tap[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) tap[n] = x + offsets[n];
      int64_t at = 0;
      for (int32_t i = 0; i < c.columns; ++i, dy += kTile, at += c.x_step) {
#pragma GCC unroll 4
        for (int lane = 0; lane < kTile; lane += kLanes) {
          const Vec d = load(dy + lane);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) total[n] += d * load(tap[n] + at + lane);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) sum[n] = total[n];
}

template <int N>
void accumulate_taps(const ConvGradient& c, const int32_t* offsets, Vec* sum) {
  accumulate<N>(c, offsets, sum);
}

void accumulate_some(const ConvGradient& c, const int32_t* offsets, int count, Vec* sum) {
  switch (count) {
    case 1: return accumulate_taps<1>(c, offsets, sum);
    case 2: return accumulate_taps<2>(c, offsets, sum);
    case 3: return accumulate_taps<3>(c, offsets, sum);
    case 4: return accumulate_taps<4>(c, offsets, sum);
    case 5: return accumulate_taps<5>(c, offsets, sum);
    case 6: return accumulate_taps<6>(c, offsets, sum);
    case 7: return accumulate_taps<7>(c, offsets, sum);
    default: return accumulate_taps<8>(c, offsets, sum);
  }
}

void gradient(const ConvGradient& c, int64_t k0, int64_t k1, float* out) {
  for (int64_t k = k0; k < k1; k += kLanes, out += kLanes) {
    const int count = k1 - k < kLanes ? int(k1 - k) : kLanes;
    Vec sum[kLanes] = {};
    for (int first = 0; first < count; first += kTaps)
      accumulate_some(c, c.offsets + k + first, count - first < kTaps ? count - first : kTaps, sum + first);
    const Vec found = sums<kLanes>(sum);
    if (count == kLanes) {
      store(out, load(out) + found);
    } else {
      for (int i = 0; i < count; ++i) out[i] += found[i];
    }
  }
}

}  // namespace

extern const ConvKernels conv_kernels = {kAccumulators, convolve, gradient};

}  // namespace secateur::SECATEUR_ISA
