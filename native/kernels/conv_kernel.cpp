// Compiled once per instruction set. Each multiply-add reads 64 bytes of x from the first- or second-level cache;
// the caller orders the work so that they are there (conv_layer.cpp).

#include "kernels/conv_kernels.h"

#include "base/vec.h"

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
  // Few positions take several sums each, of every other tap: one multiply-add must not wait for the one before.
  constexpr int kSums = G * P <= 2 ? 4 : G * P <= 4 ? 2 : 1;
  for (int32_t r = row0; r < row1; ++r) {
    float* y = c.y + r * c.y_row + lane;
    Vec sum[kSums][G][P] = {};
    const Vec bias = splat(c.bias ? c.bias[r] : 0.0f);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 24
      for (int i = 0; i < P; ++i) sum[0][g][i] = bias;
    }
    const auto add = [&](Vec(&to)[G][P], int32_t k) __attribute__((always_inline)) {
      const float* at = x + offsets[k];
      const Vec w = splat(values[k]);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
#pragma GCC unroll 24
        for (int i = 0; i < P; ++i) to[g][i] += load(at + group[g] + i * Step * kTile) * w;
      }
    };
    const int32_t end = c.ends[r];
    int32_t k = c.starts[r];
    if (kSums > 1) {
      for (; k + kSums <= end; k += kSums) {
#pragma GCC unroll 4
        for (int part = 0; part < kSums; ++part) add(sum[part], k + part);
      }
    }
    for (; k < end; ++k) add(sum[0], k);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 24
      for (int i = 0; i < P; ++i) {
        float* place = y + c.y_group[g] + i * c.y_step;
#pragma GCC unroll 4
        for (int part = 1; part < kSums; ++part) sum[0][g][i] += sum[part][g][i];
        const Vec total = c.add ? sum[0][g][i] + load(place) : sum[0][g][i];
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

// ------------------------------------------------------------------ the same for blocks of four rows
// Four rows of accumulators, their inputs and a weight.
constexpr int kBlockPositions = kLanes == 16 ? 6 : 2;

template <int G, int P, int Step>
void block_pass(const ConvPass& c, const ConvBlocks& blocks, int32_t block0, int32_t block1, int lane) {
  const float* x = c.x + lane;
  int64_t group[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) group[g] = c.x_group[g];
  for (int32_t b = block0; b < block1; ++b) {
    const int32_t* rows = blocks.rows + kBlockRows * b;
    Vec sum[kBlockRows][G * P];
#pragma GCC unroll 4
    for (int r = 0; r < kBlockRows; ++r) {
      const Vec bias = splat(c.bias ? c.bias[rows[r]] : 0.0f);
#pragma GCC unroll 8
      for (int i = 0; i < G * P; ++i) sum[r][i] = bias;
    }
    const int32_t end = blocks.starts[b + 1];
    const float* values = blocks.values + int64_t(kBlockRows) * blocks.starts[b];
    for (int32_t k = blocks.starts[b]; k < end; ++k, values += kBlockRows) {
      const float* at = x + blocks.offsets[k];
      Vec inputs[G * P];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) inputs[g * P + i] = load(at + group[g] + i * Step * kTile);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kBlockRows; ++r) {
        const Vec w = splat(values[r]);
#pragma GCC unroll 8
        for (int i = 0; i < G * P; ++i) sum[r][i] += inputs[i] * w;
      }
    }
    for (int r = 0; r < kBlockRows; ++r) {
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) {
          float* place = c.y + rows[r] * c.y_row + lane + c.y_group[g] + i * c.y_step;
          const Vec total = c.add ? sum[r][g * P + i] + load(place) : sum[r][g * P + i];
          store(place, c.relu ? relu(total) : total);
        }
      }
    }
  }
}

using BlockPass = void (*)(const ConvPass&, const ConvBlocks&, int32_t, int32_t, int);

template <int G, int P, int Step>
constexpr BlockPass block_pass_of() {
  if constexpr (G * P <= kBlockPositions) {
    return block_pass<G, P, Step>;
  } else {
    return nullptr;
  }
}

#define SECATEUR_BLOCK_PASSES(G, S)                                                                                  \
  {block_pass_of<G, 1, S>(), block_pass_of<G, 2, S>(), block_pass_of<G, 3, S>(), block_pass_of<G, 4, S>(),           \
   block_pass_of<G, 5, S>(), block_pass_of<G, 6, S>()}
#define SECATEUR_BLOCK_GROUPS(S)                                                                                     \
  {SECATEUR_BLOCK_PASSES(1, S), SECATEUR_BLOCK_PASSES(2, S), SECATEUR_BLOCK_PASSES(3, S),                            \
   SECATEUR_BLOCK_PASSES(4, S), SECATEUR_BLOCK_PASSES(5, S), SECATEUR_BLOCK_PASSES(6, S)}

constexpr BlockPass kBlockPasses[2][6][6] = {SECATEUR_BLOCK_GROUPS(1), SECATEUR_BLOCK_GROUPS(2)};

void convolve_blocks(const ConvPass& c, const ConvBlocks& blocks, int32_t block0, int32_t block1, int groups,
                     int positions, int64_t step) {
  if (step > 2) {  // rare: one position after the other
    for (int i = 0; i < positions; ++i) {
      ConvPass one = c;
      one.x += i * step * kTile;
      one.y += i * c.y_step;
      for (int lane = 0; lane < kTile; lane += kLanes)
        kBlockPasses[0][groups - 1][0](one, blocks, block0, block1, lane);
    }
    return;
  }
  const BlockPass pass = kBlockPasses[step - 1][groups - 1][positions - 1];
  for (int lane = 0; lane < kTile; lane += kLanes) pass(c, blocks, block0, block1, lane);
}

// ------------------------------------------------------------------ the gradient of the weights
constexpr int kTaps = kLanes < 8 ? kLanes : 8;

// Few taps take several sums each, of every other position: one multiply-add must not wait for the one before.
template <int N>
inline __attribute__((always_inline)) void accumulate(const ConvGradient& c, const int32_t* offsets, Vec* sum) {
  constexpr int kSums = N <= 2 ? 4 : N <= 4 ? 2 : 1;
  Vec total[kSums][N] = {};
  for (int32_t t = 0; t < c.tiles; ++t) {
    for (int32_t row = 0; row < c.rows; ++row) {
      const float* dy = c.dy + t * c.dy_tile + row * c.dy_row;
      const float* x = c.x + t * c.x_tile + row * c.x_row;
      const float* tap[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) tap[n] = x + offsets[n];
      int64_t at = 0;
      int32_t i = 0;
      const auto add = [&](Vec* to, int lane) {
        const Vec d = load(dy + lane);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) to[n] += d * load(tap[n] + at + lane);
      };
      for (; i + kSums <= c.columns; i += kSums) {
#pragma GCC unroll 4
        for (int part = 0; part < kSums; ++part, dy += kTile, at += c.x_step) {
#pragma GCC unroll 4
          for (int lane = 0; lane < kTile; lane += kLanes) add(total[part], lane);
        }
      }
      for (; i < c.columns; ++i, dy += kTile, at += c.x_step) {
#pragma GCC unroll 4
        for (int lane = 0; lane < kTile; lane += kLanes) add(total[0], lane);
      }
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    sum[n] = total[0][n];
#pragma GCC unroll 4
    for (int part = 1; part < kSums; ++part) sum[n] += total[part][n];
  }
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

// Sixteen sums at a time, four taps of four rows.
void block_gradient(const ConvGradient& c, const float* const* rows, int64_t k0, int64_t k1, float* out) {
  const float* first = rows[0];
  const int64_t second = rows[1] - first, third = rows[2] - first, fourth = rows[3] - first;
  for (int64_t k = k0; k < k1; k += 4, out += 16) {
    const int32_t* o = c.offsets + k;
    const int64_t last = k1 - 1 - k;
    const float* x0 = c.x + o[0];
    const int64_t x1 = o[last < 1 ? last : 1] - o[0], x2 = o[last < 2 ? last : 2] - o[0],
                  x3 = o[last < 3 ? last : 3] - o[0];
    Vec sum[16] = {};
    for (int32_t t = 0; t < c.tiles; ++t) {
      for (int32_t row = 0; row < c.rows; ++row) {
        const float* d = first + t * c.dy_tile + row * c.dy_row;
        const float* x = x0 + t * c.x_tile + row * c.x_row;
        for (int32_t i = 0; i < c.columns; ++i, d += kTile, x += c.x_step) {
#pragma GCC unroll 4
          for (int lane = 0; lane < kTile; lane += kLanes) {
            const Vec dy[4] = {load(d + lane), load(d + second + lane), load(d + third + lane),
                               load(d + fourth + lane)};
            const Vec taps[4] = {load(x + lane), load(x + x1 + lane), load(x + x2 + lane), load(x + x3 + lane)};
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) {
#pragma GCC unroll 4
              for (int r = 0; r < 4; ++r) sum[4 * n + r] += dy[r] * taps[n];
            }
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int part = 0; part < 16; part += kLanes) store(out + part, load(out + part) + sums<kLanes>(sum + part));
  }
}

}  // namespace

extern const ConvKernels conv_kernels = {kAccumulators,   kBlockPositions, convolve,
                                         convolve_blocks, gradient,        block_gradient};

}  // namespace secateur::SECATEUR_ISA
