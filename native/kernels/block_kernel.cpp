// Compiled once per instruction set. Blocks of four outputs of one input: a vector of activations is loaded once
// and used four times.

#include "kernels/block_kernels.h"

#include "kernels/product_row.h"

namespace secateur::SECATEUR_ISA {
namespace {

constexpr int kRows = kRowsPerBlock;
// Four sums or four operands for each of these, the vectors of a pass, must fit the register file with the rest.
constexpr int kBlockVecs = kLanes == 16 ? 4 : 2;

template <int V>
void row_pass(const Product& p, int32_t group0, int32_t group1, int64_t offset) {
  const float* x = p.x + offset;
  const int32_t* columns = p.columns;
  const int64_t ldx = p.ldx;
  for (int32_t g = group0; g < group1; ++g) {
    Vec sum[kRows * V];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vec bias = splat(p.bias ? p.bias[g * kRows + r] : 0.0f);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) sum[r * V + i] = bias;
    }
    const int32_t* starts = p.starts + g;
    for (int32_t b = 0; b < p.blocks; ++b, starts += p.groups) {
      const float* values = p.values + int64_t(starts[0]) * kRows;
      for (int32_t k = starts[0]; k < starts[1]; ++k, values += kRows) {
        const float* column = x + columns[k] * ldx;
        Vec in[V];
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) in[i] = load(column + i * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
          for (int i = 0; i < V; ++i) sum[r * V + i] += in[i] * values[r];
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) finish_row<V>(p, g * kRows + r, offset, sum + r * V);
  }
}

// Gradients of four rows stay in registers while they are added to those of the columns that have a weight there:
// a load and a store for four multiply-adds, where sums by column would take four loads.
template <int V>
void transposed_pass(const Product& p, int32_t row0, int32_t row1, int64_t offset) {
  const float* x = p.x + offset;
  float* y = p.y + offset;
  const int64_t ldx = p.ldx, ldy = p.ldy;
  for (int32_t c = row0; c < row1; ++c) {
    Vec sum[V] = {};
    for (int32_t k = p.rest_starts[c]; k < p.rest_starts[c + 1]; ++k) {
      const float* row = x + p.rest_columns[k] * ldx;
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) sum[i] += load(row + i * kLanes) * p.rest_values[k];
    }
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) store(y + c * ldy + i * kLanes, sum[i]);
  }
  for (int32_t b = 0; b < p.blocks; ++b) {
    for (int32_t g = 0; g < p.groups; ++g) {
      const int32_t* starts = p.starts + int64_t(b) * p.groups + g;
      if (starts[0] == starts[1]) continue;
      Vec in[kRows * V];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) in[r * V + i] = load(x + (int64_t(g) * kRows + r) * ldx + i * kLanes);
      }
      const float* values = p.values + int64_t(starts[0]) * kRows;
      for (int32_t k = starts[0]; k < starts[1]; ++k, values += kRows) {
        const int32_t c = p.columns[k];
        if (c < row0 || c >= row1) continue;
        float* target = y + c * ldy;
        Vec sum[V];
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) sum[i] = load(target + i * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
          for (int i = 0; i < V; ++i) sum[i] += in[r * V + i] * values[r];
        }
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) store(target + i * kLanes, sum[i]);
      }
    }
  }
  if (!p.activation) return;
  for (int32_t c = row0; c < row1; ++c) {
    Vec sum[V];
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) sum[i] = load(y + c * ldy + i * kLanes);
    finish_row<V>(p, c, offset, sum);
  }
}

}  // namespace

void multiply_blocks(const Product& p, int32_t group0, int32_t group1, int32_t tile0, int32_t tile1) {
  const int most = p.pass * kVecsPerTile < kBlockVecs ? p.pass * kVecsPerTile : kBlockVecs;
  int64_t offset = int64_t(tile0) * kTile;
  for (int left = (tile1 - tile0) * kVecsPerTile; left > 0;) {
    const int vecs = even_pass(left, most);
    switch (vecs) {
      case 1: row_pass<1>(p, group0, group1, offset); break;
      case 2: row_pass<2>(p, group0, group1, offset); break;
      case 3: row_pass<3>(p, group0, group1, offset); break;
      default: row_pass<4>(p, group0, group1, offset); break;
    }
    left -= vecs;
    offset += vecs * kLanes;
  }
}

void multiply_transposed_blocks(const Product& p, int32_t row0, int32_t row1, int32_t tile0, int32_t tile1) {
  int64_t offset = int64_t(tile0) * kTile;
  for (int left = (tile1 - tile0) * kVecsPerTile; left > 0;) {
    const int vecs = even_pass(left, kBlockVecs);
    switch (vecs) {
      case 1: transposed_pass<1>(p, row0, row1, offset); break;
      case 2: transposed_pass<2>(p, row0, row1, offset); break;
      case 3: transposed_pass<3>(p, row0, row1, offset); break;
      default: transposed_pass<4>(p, row0, row1, offset); break;
    }
    left -= vecs;
    offset += vecs * kLanes;
  }
}

void multiply_vector_blocks(const Product& p, int32_t group0, int32_t group1) {
  for (int32_t g = group0; g < group1; ++g) {
    float sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = p.bias ? p.bias[g * kRows + r] : 0.0f;
    for (int32_t b = 0; b < p.blocks; ++b) {
      const int32_t* starts = p.starts + int64_t(b) * p.groups + g;
      for (int64_t k = starts[0]; k < starts[1]; ++k) {
        for (int r = 0; r < kRows; ++r) sum[r] += p.values[k * kRows + r] * p.x[p.columns[k]];
      }
    }
    for (int r = 0; r < kRows; ++r) p.y[g * kRows + r] = p.relu && sum[r] < 0.0f ? 0.0f : sum[r];
  }
}

void sampled_blocks(const SampledProduct& p, int64_t k0, int64_t k1, int32_t tile0, int32_t tile1, float* out,
                    bool accumulate) {
  constexpr int most = kLanes / kRows;  // blocks that fill one vector of gradients
  const int vecs = (tile1 - tile0) * kVecsPerTile;
  const int64_t offset = int64_t(tile0) * kTile;
  for (int64_t k = k0; k < k1;) {
    const int32_t group = p.row[k];
    int count = 1;
    while (count < most && k + count < k1 && p.row[k + count] == group) ++count;
    const float* d = p.dy + int64_t(group) * kRows * p.ldy + offset;
    const float* x[most];
    for (int i = 0; i < most; ++i) x[i] = p.x + p.column[k + (i < count ? i : count - 1)] * p.ldx + offset;
    Vec sum[kLanes] = {};
    for (int v = 0; v < vecs; ++v) {
      Vec dy[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) dy[r] = load(d + r * p.ldy + v * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < most; ++i) {
        const Vec in = load(x[i] + v * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[i * kRows + r] += in * dy[r];
      }
    }
    Vec g = sums<kLanes>(sum);
    if (count == most) {
      if (accumulate) g += load(out);
      store(out, g);
    } else {
      for (int i = 0; i < count * kRows; ++i) out[i] = (accumulate ? out[i] : 0.0f) + g[i];
    }
    out += count * kRows;
    k += count;
  }
}

}  // namespace secateur::SECATEUR_ISA
