// Compiled once per instruction set. The points are 0, ±√½, ±√2 and ∞: of those that come in pairs of opposite sign,
// which halves the additions, they lose the least precision in single floats.

#include "base/vec.h"
#include "kernels/conv_kernels.h"

namespace secateur::SECATEUR_ISA {
namespace {

constexpr float kRoot = 1.41421356f, kHalfRoot = 0.70710678f;

#define SECATEUR_INLINE inline __attribute__((always_inline))

// Bᵀ d
SECATEUR_INLINE void input_points(const Vec* d, Vec* out) {
  const Vec even = d[4] - d[2] * 2.0f, odd = d[3] * kHalfRoot - d[1] * kRoot;
  const Vec even2 = d[4] - d[2] * 0.5f, odd2 = d[3] * kRoot - d[1] * kHalfRoot;
  out[0] = d[0] + d[4] - d[2] * 2.5f;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = even2 + odd2;
  out[4] = even2 - odd2;
  out[5] = d[1] + d[5] - d[3] * 2.5f;
}

// A d
SECATEUR_INLINE void gradient_points(const Vec* d, Vec* out) {
  const Vec even = d[0] + d[2] * 0.5f, odd = d[1] * kHalfRoot + d[3] * (kHalfRoot / 2);
  const Vec even2 = d[0] + d[2] * 2.0f, odd2 = d[1] * kRoot + d[3] * (2 * kRoot);
  out[0] = d[0];
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = even2 + odd2;
  out[4] = even2 - odd2;
  out[5] = d[3];
}

// Aᵀ m
SECATEUR_INLINE void outputs_of(const Vec* m, Vec* out) {
  const Vec sum = m[1] + m[2], difference = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
  out[0] = m[0] + sum + sum2;
  out[1] = difference * kHalfRoot + difference2 * kRoot;
  out[2] = sum * 0.5f + sum2 * 2.0f;
  out[3] = difference * (kHalfRoot / 2) + difference2 * (2 * kRoot) + m[5];
}

// G g
SECATEUR_INLINE void weight_points(const Vec* g, Vec* out) {
  const Vec even = (g[0] * 2.0f + g[2]) * (-1.0f / 3), odd = g[1] * (-kRoot / 3);
  const Vec even2 = (g[0] + g[2] * 2.0f) * (1.0f / 6), odd2 = g[1] * (kRoot / 6);
  out[0] = g[0];
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = even2 + odd2;
  out[4] = even2 - odd2;
  out[5] = g[2];
}

// Gᵀ s
SECATEUR_INLINE void weights_of(const Vec* s, Vec* out) {
  const Vec sum = (s[1] + s[2]) * (-1.0f / 3), sum2 = (s[3] + s[4]) * (1.0f / 6);
  out[0] = s[0] + sum * 2.0f + sum2;
  out[1] = (s[1] - s[2]) * (-kRoot / 3) + (s[3] - s[4]) * (kRoot / 6);
  out[2] = sum + sum2 * 2.0f + s[5];
}

SECATEUR_INLINE const float* patch_of(const WinogradPlane& p, int64_t unit) {
  const int64_t column = unit % p.across, rest = unit / p.across;
  return p.at + rest / p.down * p.tile + rest % p.down * kPatch * p.row + column * kPatch * kTile;
}

// Short pieces of many rows are what the processor's own prefetching does not see. Beyond the last channel nothing is
// read, whatever lies there.
template <int Size, bool Write>
SECATEUR_INLINE void fetch_ahead(const WinogradPlane& p, const float* patch) {
#pragma GCC unroll 6
  for (int i = 0; i < Size; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kPatch; ++j) __builtin_prefetch(patch + p.next + i * p.row + j * kTile, Write ? 1 : 0);
  }
}

void weights(const float* w, int64_t inputs, int64_t depth, int64_t outputs, int64_t c0, int64_t c1, int64_t stride,
             float* u) {
  const int64_t plane = inputs * outputs;
  for (int64_t c = c0; c < c1; ++c) {
    for (int64_t k = 0; k < outputs; k += kLanes) {
      const float* from = w + c * outputs + k;
      float* to = u + (k / kRowsOfBlock * depth + c) * kRowsOfBlock + k % kRowsOfBlock;
      Vec half[3][6];
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        const Vec column[3] = {load(from + x * plane), load(from + (3 + x) * plane), load(from + (6 + x) * plane)};
        weight_points(column, half[x]);
      }
#pragma GCC unroll 6
      for (int y = 0; y < 6; ++y) {
        const Vec row[3] = {half[0][y], half[1][y], half[2][y]};
        Vec out[6];
        weight_points(row, out);
#pragma GCC unroll 6
        for (int x = 0; x < 6; ++x) store(to + (6 * y + x) * stride, out[x]);
      }
    }
  }
}

// The points of `Size` × `Size` values of each patch, down the columns and then along the rows.
template <int Size>
SECATEUR_INLINE void points_of(const WinogradPlane& plane, int row0, int row1, int64_t u0, int64_t u1, int64_t stride,
                               float* v) {
  for (int64_t unit = u0; unit < u1; ++unit, v += kTile) {
    const float* patch = patch_of(plane, unit);
    fetch_ahead<Size, false>(plane, patch);
    for (int lane = 0; lane < kTile; lane += kLanes) {
      Vec half[6][Size];
#pragma GCC unroll 6
      for (int j = 0; j < Size; ++j) {
        Vec column[Size], out[6];
#pragma GCC unroll 6
        for (int i = 0; i < Size; ++i) column[i] = load(patch + i * plane.row + j * kTile + lane);
        Size == 6 ? input_points(column, out) : gradient_points(column, out);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) half[i][j] = out[i];
      }
      for (int i = row0; i < row1; ++i) {
        Vec out[6];
        Size == 6 ? input_points(half[i], out) : gradient_points(half[i], out);
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) store(v + (6 * (i - row0) + j) * stride + lane, out[j]);
      }
    }
  }
}

void input(const WinogradPlane& x, int row0, int row1, int64_t u0, int64_t u1, int64_t stride, float* v) {
  points_of<6>(x, row0, row1, u0, u1, stride, v);
}

void gradient(const WinogradPlane& dy, int row0, int row1, int64_t u0, int64_t u1, int64_t stride, float* v) {
  points_of<4>(dy, row0, row1, u0, u1, stride, v);
}

// Eight rows and N vectors: with AVX-512 a loaded vector serves eight of them and a weight N.
template <int N>
SECATEUR_INLINE void multiply_block(const float* u, const float* v, int64_t inputs, int64_t rows, int64_t count,
                                    bool add, float* m) {
  Vec sum[8][N] = {};
  for (int64_t c = 0; c < inputs; ++c, u += kRowsOfBlock, v += count) {
    Vec x[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) x[i] = load(v + i * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) sum[r][i] += x[i] * u[r];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    if (r >= rows) return;
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      float* place = m + r * count + i * kLanes;
      store(place, add ? load(place) + sum[r][i] : sum[r][i]);
    }
  }
}

void multiply(const float* u, const float* v, int64_t inputs, int64_t outputs, int64_t count, bool add, float* m) {
  constexpr int kWide = kLanes == 16 ? 2 : 1;
  for (int64_t k = 0; k < outputs; k += 8) {
    const float* weights = u + k / kRowsOfBlock * inputs * kRowsOfBlock + k % kRowsOfBlock;
    int64_t i = 0;
    for (; i + kWide * kLanes <= count; i += kWide * kLanes)
      multiply_block<kWide>(weights, v + i, inputs, outputs - k, count, add, m + k * count + i);
    for (; i < count; i += kLanes)
      multiply_block<1>(weights, v + i, inputs, outputs - k, count, add, m + k * count + i);
  }
}

void output(const float* m, int64_t stride, int64_t u0, int64_t u1, float bias, bool rectify, bool add,
            const WinogradPlane& y) {
  for (int64_t unit = u0; unit < u1; ++unit, m += kTile) {
    float* patch = const_cast<float*>(patch_of(y, unit));
    fetch_ahead<4, true>(y, patch);
    const int64_t top = unit / y.across % y.down * kPatch, left = unit % y.across * kPatch;
    const int rows = y.height - top < kPatch ? int(y.height - top) : kPatch;
    const int columns = y.width - left < kPatch ? int(y.width - left) : kPatch;
    for (int lane = 0; lane < kTile; lane += kLanes) {
      Vec half[4][6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        Vec column[6], out[4];
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) column[i] = load(m + (6 * i + j) * stride + lane);
        outputs_of(column, out);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) half[i][j] = out[i];
      }
      for (int i = 0; i < rows; ++i) {
        Vec out[4];
        outputs_of(half[i], out);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          if (j >= columns) break;
          float* place = patch + i * y.row + j * kTile + lane;
          Vec total = out[j] + bias;
          if (add) total += load(place);
          store(place, rectify ? relu(total) : total);
        }
      }
    }
  }
}

void transpose_rows(const float* from, int64_t rows, int64_t count, int64_t step, int64_t block, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) {
    for (int64_t r = 0; r < rows; r += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) square[j] = load(from + (r + j < rows ? r + j : rows - 1) * count + i);
      transpose(square);
      float* place = to + r / kTile * block + i * step + r % kTile;
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) store(place + j * step, square[j]);
    }
  }
}

void weight_gradient(const float* sums, int64_t stride, float* out) {
  for (int lane = 0; lane < kTile; lane += kLanes) {
    Vec half[3][6];
#pragma GCC unroll 6
    for (int x = 0; x < 6; ++x) {
      Vec column[6], found[3];
#pragma GCC unroll 6
      for (int y = 0; y < 6; ++y) column[y] = load(sums + (6 * y + x) * stride + lane);
      weights_of(column, found);
#pragma GCC unroll 3
      for (int y = 0; y < 3; ++y) half[y][x] = found[y];
    }
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) {
      Vec found[3];
      weights_of(half[y], found);
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) store(out + (3 * y + x) * kTile + lane, found[x]);
    }
  }
}

}  // namespace

extern const WinogradKernels winograd_kernels = {
    weights, input, gradient, multiply, output, transpose_rows, weight_gradient,
};

}  // namespace secateur::SECATEUR_ISA
