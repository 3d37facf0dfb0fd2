// Compiled once per instruction set. What limits these loops is the bandwidth of the second-level cache: each
// fused multiply-add reads 64 bytes of activations (docs/sparse.md has the roofline).

#include "kernels/sparse_kernels.h"

#include <cmath>

#include "base/vec.h"
#include "kernels/block_kernels.h"
#include "kernels/product_row.h"

namespace secateur::SECATEUR_ISA {
namespace {

// ------------------------------------------------------------------ sparse × dense
// One sweep over V vectors of samples. A multiply-add takes four cycles and two can start in each, so that short
// sweeps keep `Sets` independent sums, one for every Sets-th entry.
template <int V, int Sets>
void multiply_pass(const Product& p, int32_t row0, int32_t row1, int64_t offset) {
  const float* x = p.x + offset;
  const float* values = p.values;
  const int32_t* columns = p.columns;
  const int64_t ldx = p.ldx;
  for (int32_t r = row0; r < row1; ++r) {
    Vec sum[V * Sets] = {};
    const Vec bias = splat(p.bias ? p.bias[r] : 0.0f);
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) sum[i] = bias;
    const int32_t* starts = p.starts + r;
    for (int32_t b = 0; b < p.blocks; ++b, starts += p.rows) {
      int64_t k = starts[0];
      const int64_t end = starts[1];
      for (; k + Sets <= end; k += Sets) {
#pragma GCC unroll 8
        for (int s = 0; s < Sets; ++s) {
          const float* column = x + columns[k + s] * ldx;
#pragma GCC unroll 8
          for (int i = 0; i < V; ++i) sum[s * V + i] += load(column + i * kLanes) * values[k + s];
        }
      }
      for (; Sets > 1 && k < end; ++k) {
        const float* column = x + columns[k] * ldx;
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i) sum[i] += load(column + i * kLanes) * values[k];
      }
    }
#pragma GCC unroll 8
    for (int i = V; i < V * Sets; ++i) sum[i % V] += sum[i];
    finish_row<V>(p, r, offset, sum);
  }
}

void multiply_vecs(int vecs, const Product& p, int32_t row0, int32_t row1, int64_t offset) {
  switch (vecs) {
    case 1: return multiply_pass<1, 4>(p, row0, row1, offset);
    case 2: return multiply_pass<2, 4>(p, row0, row1, offset);
    case 3: return multiply_pass<3, 2>(p, row0, row1, offset);
    case 4: return multiply_pass<4, 2>(p, row0, row1, offset);
    case 5: return multiply_pass<5, 1>(p, row0, row1, offset);
    case 6: return multiply_pass<6, 1>(p, row0, row1, offset);
    case 7: return multiply_pass<7, 1>(p, row0, row1, offset);
    default: return multiply_pass<8, 1>(p, row0, row1, offset);
  }
}

// The rows of a layer of blocks that are in none.
Product rest_of(const Product& p) {
  const int32_t whole = p.rows / kRowsPerBlock * kRowsPerBlock;
  Product rest = p;
  rest.entries = Entries::weights;
  rest.rows = p.rows - whole;
  rest.blocks = 1;
  rest.starts = p.rest_starts;
  rest.columns = p.rest_columns;
  rest.values = p.rest_values;
  rest.y += whole * p.ldy;
  if (p.bias) rest.bias += whole;
  if (p.activation) rest.activation += whole * p.ldy;
  return rest;
}

void multiply_weights(const Product& p, int32_t row0, int32_t row1, int32_t tile0, int32_t tile1) {
  constexpr int most = kMaxVecs / kVecsPerTile;
  const int limit = p.pass < 1 ? 1 : (p.pass < most ? p.pass : most);
  const int step = tile1 > tile0 ? even_pass(tile1 - tile0, limit) : 1;
  for (int32_t t = tile0; t < tile1; t += step) {
    const int tiles = tile1 - t < step ? tile1 - t : step;
    multiply_vecs(tiles * kVecsPerTile, p, row0, row1, int64_t(t) * kTile);
  }
}

void multiply(const Product& p, int32_t row0, int32_t row1, int32_t tile0, int32_t tile1) {
  const int32_t whole = p.rows / kRowsPerBlock * kRowsPerBlock;
  if (p.entries == Entries::weights) return multiply_weights(p, row0, row1, tile0, tile1);
  if (p.entries == Entries::transposed_blocks) return multiply_transposed_blocks(p, row0, row1, tile0, tile1);
  multiply_blocks(p, row0 / kRowsPerBlock, (row1 < whole ? row1 : whole) / kRowsPerBlock, tile0, tile1);
  if (row1 > whole)
    multiply_weights(rest_of(p), row0 > whole ? row0 - whole : 0, row1 - whole, tile0, tile1);
}

void multiply_vector_weights(const Product& p, int32_t row0, int32_t row1) {
  for (int32_t r = row0; r < row1; ++r) {
    float s0 = p.bias ? p.bias[r] : 0.0f, s1 = 0, s2 = 0, s3 = 0;
    for (int32_t b = 0; b < p.blocks; ++b) {
      const int32_t* starts = p.starts + int64_t(b) * p.rows + r;
      int64_t k = starts[0];
      const int64_t end = starts[1];
      for (; k + 4 <= end; k += 4) {
        s0 += p.values[k] * p.x[p.columns[k]];
        s1 += p.values[k + 1] * p.x[p.columns[k + 1]];
        s2 += p.values[k + 2] * p.x[p.columns[k + 2]];
        s3 += p.values[k + 3] * p.x[p.columns[k + 3]];
      }
      for (; k < end; ++k) s0 += p.values[k] * p.x[p.columns[k]];
    }
    const float total = (s0 + s1) + (s2 + s3);
    p.y[r] = p.relu && total < 0.0f ? 0.0f : total;
  }
}

void multiply_vector(const Product& p, int32_t row0, int32_t row1) {
  if (p.entries == Entries::weights) return multiply_vector_weights(p, row0, row1);
  const int32_t whole = p.rows / kRowsPerBlock * kRowsPerBlock;
  multiply_vector_blocks(p, row0 / kRowsPerBlock, (row1 < whole ? row1 : whole) / kRowsPerBlock);
  if (row1 > whole) multiply_vector_weights(rest_of(p), row0 > whole ? row0 - whole : 0, row1 - whole);
}

// ------------------------------------------------------------------ dense × dense where a weight exists
// Keeps the compiler from moving loads of one entry above the sums of another, which would spill registers.
#if defined(__x86_64__)
#define SECATEUR_PIN_POINTER(variable) asm volatile("" : "+r"(variable))
#define SECATEUR_PIN_VECTOR(variable) asm volatile("" : "+v"(variable))
#else
#define SECATEUR_PIN_POINTER(variable)
#define SECATEUR_PIN_VECTOR(variable)
#endif

template <int V, bool Same>
struct Group {
  const int32_t* row;
  const int32_t* column;
  const float* dy;
  int64_t ldy;
  const float* x;
  int64_t ldx;

  inline __attribute__((always_inline)) Vec partial(int entry, const Vec* shared) const {
    const float* xs = x + column[entry] * ldx;
    SECATEUR_PIN_POINTER(xs);
    const float* ds = dy;
    if constexpr (!Same) {
      ds += row[entry] * ldy;
      SECATEUR_PIN_POINTER(ds);
    }
    Vec s = (Same ? shared[0] : load(ds)) * load(xs);
#pragma GCC unroll 8
    for (int i = 1; i < V; ++i) s += (Same ? shared[i] : load(ds + i * kLanes)) * load(xs + i * kLanes);
    SECATEUR_PIN_VECTOR(s);
    return s;
  }

  template <int First, int Step>
  inline __attribute__((always_inline)) Vec reduce(const Vec* shared) const {
    if constexpr (Step == kLanes) {
      return partial(First, shared);
    } else {
      const Vec a = reduce<First, Step * 2>(shared);
      const Vec b = reduce<First + Step, Step * 2>(shared);
      return interleave_low(a, b) + interleave_high(a, b);
    }
  }
};

template <int V>
Vec sampled_group(const SampledProduct& p, const int32_t* row, const int32_t* column, int64_t offset) {
  if (row[0] == row[kLanes - 1]) {
    const Group<V, true> group{row, column, nullptr, 0, p.x + offset, p.ldx};
    Vec shared[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) shared[i] = load(p.dy + row[0] * p.ldy + offset + i * kLanes);
    return group.template reduce<0, 1>(shared);
  }
  return Group<V, false>{row, column, p.dy + offset, p.ldy, p.x + offset, p.ldx}.template reduce<0, 1>(nullptr);
}

template <int V>
void sampled_pass(const SampledProduct& p, int64_t k0, int64_t k1, int64_t offset, float* out, bool accumulate) {
  int64_t k = k0;
  for (; k + kLanes <= k1; k += kLanes, out += kLanes) {
    Vec g = sampled_group<V>(p, p.row + k, p.column + k, offset);
    if (accumulate) g += load(out);
    store(out, g);
  }
  if (k == k1) return;
  // The last entry fills the group up: rows stay in order, so that comparing first and last still tells all.
  int32_t row[kLanes], column[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    row[i] = p.row[k + i < k1 ? k + i : k1 - 1];
    column[i] = p.column[k + i < k1 ? k + i : k1 - 1];
  }
  const Vec g = sampled_group<V>(p, row, column, offset);
  for (int i = 0; i < k1 - k; ++i) out[i] = (accumulate ? out[i] : 0.0f) + g[i];
}

void sampled(const SampledProduct& p, int64_t k0, int64_t k1, int32_t tile0, int32_t tile1, float* out,
             bool accumulate) {
  int64_t offset = int64_t(tile0) * kTile;
  for (int left = (tile1 - tile0) * kVecsPerTile; left > 0;) {
    const int vecs = even_pass(left, kMaxVecs);
    switch (vecs) {
      case 1: sampled_pass<1>(p, k0, k1, offset, out, accumulate); break;
      case 2: sampled_pass<2>(p, k0, k1, offset, out, accumulate); break;
      case 3: sampled_pass<3>(p, k0, k1, offset, out, accumulate); break;
      case 4: sampled_pass<4>(p, k0, k1, offset, out, accumulate); break;
      case 5: sampled_pass<5>(p, k0, k1, offset, out, accumulate); break;
      case 6: sampled_pass<6>(p, k0, k1, offset, out, accumulate); break;
      case 7: sampled_pass<7>(p, k0, k1, offset, out, accumulate); break;
      default: sampled_pass<8>(p, k0, k1, offset, out, accumulate); break;
    }
    left -= vecs;
    offset += vecs * kLanes;
    accumulate = true;
  }
}

void row_sums(const float* dy, int64_t ldy, int32_t row0, int32_t row1, int32_t tiles, float* out) {
  for (int32_t r = row0; r < row1; ++r) {
    const float* row = dy + r * ldy;
    Vec s{};
    for (int i = 0; i < tiles * kVecsPerTile; ++i) s += load(row + i * kLanes);
    out[r] = sum(s);
  }
}

void gather(const float* values, const int32_t* order, int64_t k0, int64_t k1, float* out) {
  for (int64_t k = k0; k < k1; ++k) out[k] = values[order[k]];
}

// ------------------------------------------------------------------ layouts
void pack(const float* x, int64_t stride, int64_t samples, const PackGroup* groups, int64_t group0, int64_t group1,
          int32_t tile0, int32_t tile1, float* out, int64_t ld) {
  for (int32_t t = tile0; t < tile1; ++t) {
    for (int64_t n = group0; n < group1; ++n) {
      const PackGroup& group = groups[n];
      for (int s0 = t * kTile; s0 < (t + 1) * kTile; s0 += kLanes) {
        const int rows = int(samples - s0 < 0 ? 0 : (samples - s0 < kLanes ? samples - s0 : kLanes));
        for (int c0 = 0; c0 < group.count; c0 += kLanes) {
          const int width = group.count - c0 < kLanes ? group.count - c0 : kLanes;
          const float* source = x + s0 * stride + group.first + c0;
          Vec block[kLanes];
          if (rows == kLanes && width == kLanes) {
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) block[i] = load(source + i * stride);
          } else {
            float border[kLanes][kLanes] = {};
            for (int i = 0; i < rows; ++i) {
              for (int j = 0; j < width; ++j) border[i][j] = source[i * stride + j];
            }
            for (int i = 0; i < kLanes; ++i) block[i] = load(border[i]);
          }
          transpose(block);
          for (int j = 0; j < width; ++j) {
            const int32_t target = group.target[c0 + j];
            if (target >= 0) store(out + target * ld + s0, block[j]);
          }
        }
      }
    }
  }
}

void unpack(const float* y, int64_t ld, int32_t features, int64_t samples, int32_t tile0, int32_t tile1, float* out,
            int64_t stride) {
  for (int s0 = tile0 * kTile; s0 < tile1 * kTile && s0 < samples; s0 += kLanes) {
    const int rows = samples - s0 < kLanes ? int(samples - s0) : kLanes;
    for (int32_t f = 0; f < features; f += kLanes) {
      const int width = features - f < kLanes ? features - f : kLanes;
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) block[j] = load(y + int64_t(f + (j < width ? j : 0)) * ld + s0);
      transpose(block);
      float* target = out + s0 * stride + f;
      if (width == kLanes) {
        for (int i = 0; i < rows; ++i) store(target + i * stride, block[i]);
      } else {
        for (int i = 0; i < rows; ++i) {
          for (int j = 0; j < width; ++j) target[i * stride + j] = block[i][j];
        }
      }
    }
  }
}

// ------------------------------------------------------------------ loss
double cross_entropy(const float* logits, int64_t ld, int32_t classes, int64_t samples, const int64_t* targets,
                     int32_t tile0, int32_t tile1, float* gradient) {
  double loss = 0.0;
  const float scale = 1.0f / float(samples);
  for (int s0 = tile0 * kTile; s0 < tile1 * kTile; s0 += kLanes) {
    const int count = int(samples - s0 < 0 ? 0 : (samples - s0 < kLanes ? samples - s0 : kLanes));
    Vec top = load(logits + s0);
    for (int32_t c = 1; c < classes; ++c) {
      const Vec z = load(logits + c * ld + s0);
      top = z > top ? z : top;
    }
    Vec total{};
    for (int32_t c = 0; c < classes; ++c) {
      const Vec e = exp_of_negative(load(logits + c * ld + s0) - top);
      store(gradient + c * ld + s0, e);
      total += e;
    }
    // Padding samples get a zero gradient, so that sums over whole tiles are sums over the samples.
    Vec factor = scale / total;
    for (int i = count; i < kLanes; ++i) factor[i] = 0.0f;
    for (int32_t c = 0; c < classes; ++c) {
      float* g = gradient + c * ld + s0;
      store(g, count == kLanes || count > 0 ? load(g) * factor : Vec{});
    }
    for (int i = 0; i < count; ++i) {
      const int64_t at = targets[s0 + i] * ld + s0 + i;
      loss += std::log(double(total[i])) - double(logits[at] - top[i]);
      gradient[at] -= scale;
    }
  }
  return loss;
}

// ------------------------------------------------------------------ optimizers, as torch.optim defines them
void sgd(const SgdRates& rates, int64_t count, const float* gradient, float* value, float* velocity) {
  const SgdRates o = rates;
  if (o.momentum == 0.0f) {
    for (int64_t i = 0; i < count; ++i) value[i] -= o.lr * (o.sign * gradient[i] + o.weight_decay * value[i]);
    return;
  }
  const float undamped = o.first ? 1.0f : o.undamped;
  const float keep = o.first ? 0.0f : o.momentum;
  if (o.nesterov) {
    for (int64_t i = 0; i < count; ++i) {
      const float g = o.sign * gradient[i] + o.weight_decay * value[i];
      velocity[i] = keep * velocity[i] + undamped * g;
      value[i] -= o.lr * (g + o.momentum * velocity[i]);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const float g = o.sign * gradient[i] + o.weight_decay * value[i];
      velocity[i] = keep * velocity[i] + undamped * g;
      value[i] -= o.lr * velocity[i];
    }
  }
}

void adam(const AdamRates& rates, int64_t count, const float* gradient, float* value, float* mean, float* square) {
  const AdamRates o = rates;
  for (int64_t i = 0; i < count; ++i) {
    const float g = o.sign * gradient[i] + o.weight_decay * value[i];
    const float w = value[i] * o.shrink;
    const float m = mean[i] + (1.0f - o.beta1) * (g - mean[i]);
    const float v = o.beta2 * square[i] + (1.0f - o.beta2) * g * g;
    mean[i] = m;
    square[i] = v;
    value[i] = w - o.step_size * m / (__builtin_sqrtf(v) / o.root_correction2 + o.eps);
  }
}

}  // namespace

extern const SparseKernels sparse_kernels = {
    kLanes, multiply, sampled, gather, multiply_vector, row_sums, pack, unpack, cross_entropy, sgd, adam,
    sampled_blocks,
};

}  // namespace secateur::SECATEUR_ISA
