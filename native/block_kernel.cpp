// Compiled once per instruction set. Blocks of four outputs of one input: a vector of activations is loaded once
// and used four times.

#include "block_kernels.h"

#include "product_row.h"

namespace secateur::SECATEUR_ISA {
namespace {

constexpr int kRows = kBlockRows;
// With four sums for each, the vectors of one pass and a weight must fit the register file.
constexpr int kRowVecs = kLanes == 16 ? 4 : 2;

template <int V>
void row_pass(const Product& p, int32_t group0, int32_t group1, int64_t offset) {
  const int32_t groups = p.rows / kRows;
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
    for (int32_t b = 0; b < p.blocks; ++b, starts += groups) {
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

// Sets: independent sums, so that multiply-adds need not wait for one another.
template <int V, int Sets>
void column_pass(const Product& p, int32_t row0, int32_t row1, int64_t offset) {
  const float* x = p.x + offset;
  const int64_t ldx = p.ldx;
  for (int32_t c = row0; c < row1; ++c) {
    Vec sum[V * Sets] = {};
    const float* values = p.values + int64_t(p.starts[c]) * kRows;
    for (int32_t k = p.starts[c]; k < p.starts[c + 1]; ++k, values += kRows) {
      const float* group = x + int64_t(p.columns[k]) * kRows * ldx;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i)
          sum[r % Sets * V + i] += load(group + r * ldx + i * kLanes) * values[r];
      }
    }
    for (int32_t k = p.rest_starts[c]; k < p.rest_starts[c + 1]; ++k) {
      const float* row = x + p.rest_columns[k] * ldx;
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) sum[i] += load(row + i * kLanes) * p.rest_values[k];
    }
#pragma GCC unroll 8
    for (int i = V; i < V * Sets; ++i) sum[i % V] += sum[i];
    finish_row<V>(p, c, offset, sum);
  }
}

}  // namespace

void multiply_row_blocks(const Product& p, int32_t group0, int32_t group1, int32_t tile0, int32_t tile1) {
  const int most = p.pass * kVecsPerTile < kRowVecs ? p.pass * kVecsPerTile : kRowVecs;
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

void multiply_column_blocks(const Product& p, int32_t row0, int32_t row1, int32_t tile0, int32_t tile1) {
  const int most = p.pass * kVecsPerTile < kMaxVecs ? p.pass * kVecsPerTile : kMaxVecs;
  int64_t offset = int64_t(tile0) * kTile;
  for (int left = (tile1 - tile0) * kVecsPerTile; left > 0;) {
    const int vecs = even_pass(left, most);
    switch (vecs) {
      case 1: column_pass<1, 4>(p, row0, row1, offset); break;
      case 2: column_pass<2, 4>(p, row0, row1, offset); break;
      case 3: column_pass<3, 2>(p, row0, row1, offset); break;
      case 4: column_pass<4, 2>(p, row0, row1, offset); break;
      case 5: column_pass<5, 1>(p, row0, row1, offset); break;
      case 6: column_pass<6, 1>(p, row0, row1, offset); break;
      case 7: column_pass<7, 1>(p, row0, row1, offset); break;
      default: column_pass<8, 1>(p, row0, row1, offset); break;
    }
    left -= vecs;
    offset += vecs * kLanes;
  }
}

void multiply_vector_blocks(const Product& p, int32_t group0, int32_t group1) {
  const int32_t groups = p.rows / kRows;
  for (int32_t g = group0; g < group1; ++g) {
    float sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = p.bias ? p.bias[g * kRows + r] : 0.0f;
    for (int32_t b = 0; b < p.blocks; ++b) {
      const int32_t* starts = p.starts + int64_t(b) * groups + g;
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

void gather_blocks(const float* values, const int32_t* order, int64_t k0, int64_t k1, float* out) {
  for (int64_t k = k0; k < k1; ++k) {
    const float* block = values + int64_t(order[k]) * kRows;
    for (int r = 0; r < kRows; ++r) out[k * kRows + r] = block[r];
  }
}

}  // namespace secateur::SECATEUR_ISA
