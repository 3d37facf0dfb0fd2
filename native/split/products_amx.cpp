// Splitting with AVX512-BF16, products with AMX's tiles of 16 × 32 and 32 × 16 numbers of bfloat16.

#include "base/tiles.h"
#include "split/kernels.h"

namespace secateur {
namespace {

struct Halves {
  __m512i high, low;
};

// Lane i: the i-th numbers of `a` (lower half) and of `b` (upper half), as pairs of bfloat16.
inline __m512i paired(__m512 a, __m512 b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

inline __m512 lower(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }

inline __m512 upper(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000u))));
}

inline Halves split(__m512 a, __m512 b) {
  const __m512i high = paired(a, b);
  return {high, paired(_mm512_sub_ps(a, lower(high)), _mm512_sub_ps(b, upper(high)))};
}

void right(const float* v, int64_t rows, int64_t count, float* to) {
  const int64_t across = count / 16 * kSplitBlock;
  for (int64_t c = 0; c < rows || c % kSplitDepth; c += 2, v += 2 * count) {
    float* line = to + c / kSplitDepth * across + c % kSplitDepth * 8;
    for (int64_t i = 0; i < count; i += 16, line += kSplitBlock) {
      const __m512 a = c < rows ? _mm512_loadu_ps(v + i) : _mm512_setzero_ps();
      const __m512 b = c + 1 < rows ? _mm512_loadu_ps(v + count + i) : _mm512_setzero_ps();
      const Halves found = split(a, b);
      _mm512_storeu_si512(line, found.high);
      _mm512_storeu_si512(line + kSplitBlock / 2, found.low);
    }
  }
}

void left(const float* m, int64_t rows, int64_t count, float* to) {
  for (int64_t k = 0; k < rows; ++k) {
    float* line = to + k / 16 * (count / kSplitDepth) * kSplitBlock + k % 16 * 16;
    for (int64_t i = 0; i < count; i += 32, m += 32, line += kSplitBlock) {
      const __m512 a = _mm512_loadu_ps(m), b = _mm512_loadu_ps(m + 16);
      const __m512i high = (__m512i)_mm512_cvtne2ps_pbh(b, a);
      const __m512 first = lower(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(high)));
      const __m512 second = lower(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high, 1)));
      _mm512_storeu_si512(line, high);
      _mm512_storeu_si512(line + kSplitBlock / 2,
                          (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, second), _mm512_sub_ps(a, first)));
    }
  }
}

void weights(float* u, int64_t chunks) {
  for (int64_t n = 0; n < chunks; ++n, u += 512) {
    alignas(64) int32_t high[16][16], low[16][16];  // [pair of columns][row]
    for (int p = 0; p < 16; ++p) {
      const Halves found = split(_mm512_loadu_ps(u + 32 * p), _mm512_loadu_ps(u + 32 * p + 16));
      _mm512_store_si512(high[p], found.high);
      _mm512_store_si512(low[p], found.low);
    }
    auto* to = reinterpret_cast<int32_t*>(u);
    const __m512i down = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                            _mm512_set1_epi32(16));
    for (int r = 0; r < 16; ++r) {
      _mm512_storeu_si512(to + 16 * r, _mm512_i32gather_epi32(down, &high[0][r], 4));
      _mm512_storeu_si512(to + 256 + 16 * r, _mm512_i32gather_epi32(down, &low[0][r], 4));
    }
  }
}

// Tiles 0..3 are the sums [16 rows][16 columns] of two blocks of each; 4, 5 parts of the left matrix, 6, 7 of the right.
template <bool Rows, bool Columns>  // whether there are second blocks
void multiply_block(const float* a, const float* b, int64_t depth, int64_t across, bool add, float* m, int64_t m_row) {
  constexpr int64_t line = tiles::kRowBytes, half = kSplitBlock / 2;
  const int64_t out = 4 * m_row, below = depth / kSplitDepth * kSplitBlock;
  if (add) {
    _tile_loadd(0, m, out);
    if (Columns) _tile_loadd(1, m + 16, out);
    if (Rows) _tile_loadd(2, m + 16 * m_row, out);
    if (Rows && Columns) _tile_loadd(3, m + 16 * m_row + 16, out);
  } else {
    _tile_zero(0);
    if (Columns) _tile_zero(1);
    if (Rows) _tile_zero(2);
    if (Rows && Columns) _tile_zero(3);
  }
  const auto products = [] {
    _tile_dpbf16ps(0, 4, 6);
    if (Columns) _tile_dpbf16ps(1, 4, 7);
    if (Rows) _tile_dpbf16ps(2, 5, 6);
    if (Rows && Columns) _tile_dpbf16ps(3, 5, 7);
  };
  for (int64_t c = 0; c < depth; c += kSplitDepth, a += kSplitBlock, b += across) {
    // low · high, high · high, high · low: each part is loaded once.
    _tile_loadd(4, a + half, line);
    if (Rows) _tile_loadd(5, a + below + half, line);
    _tile_loadd(6, b, line);
    if (Columns) _tile_loadd(7, b + kSplitBlock, line);
    products();
    _tile_loadd(4, a, line);
    if (Rows) _tile_loadd(5, a + below, line);
    products();
    _tile_loadd(6, b + half, line);
    if (Columns) _tile_loadd(7, b + kSplitBlock + half, line);
    products();
  }
  _tile_stored(0, m, out);
  if (Columns) _tile_stored(1, m + 16, out);
  if (Rows) _tile_stored(2, m + 16 * m_row, out);
  if (Rows && Columns) _tile_stored(3, m + 16 * m_row + 16, out);
}

void multiply(const float* left, const float* right, int64_t depth, int64_t outputs, int64_t count, bool add, float* m) {
  constexpr int64_t kWide = 32;
  alignas(64) float border[kWide * kWide];  // for rows that m has not
  for (int64_t k = 0; k < outputs; k += kWide) {
    const int64_t rows = outputs - k < kWide ? outputs - k : kWide;
    const bool whole = rows == kWide || rows == 16;
    const float* a = left + k / 16 * (depth / kSplitDepth) * kSplitBlock;
    for (int64_t i = 0; i < count; i += kWide) {
      const int64_t width = count - i < kWide ? 16 : kWide, to_row = whole ? count : kWide;
      float* to = whole ? m + k * count + i : border;
      for (int64_t r = 0; !whole && add && r < rows; ++r)
        for (int64_t j = 0; j < width; ++j) border[r * kWide + j] = m[(k + r) * count + i + j];
      const auto way = rows > 16 ? (width > 16 ? multiply_block<true, true> : multiply_block<true, false>)
                                 : (width > 16 ? multiply_block<false, true> : multiply_block<false, false>);
      way(a, right + i / 16 * kSplitBlock, depth, count / 16 * kSplitBlock, add, to, to_row);
      for (int64_t r = 0; !whole && r < rows; ++r)
        for (int64_t j = 0; j < width; ++j) m[(k + r) * count + i + j] = border[r * kWide + j];
    }
  }
}

}  // namespace

extern const SplitKernels split_by_tiles = {tiles::enter, tiles::leave, weights, left, right, multiply};

}  // namespace secateur
