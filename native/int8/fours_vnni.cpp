// vpdpbusd multiplies fours of bytes and adds them to 32-bit integers (AVX512-VNNI).

#include "half/pairs.h"
#include "int8/kernels.h"

namespace secateur::int8 {
namespace {

using half::lanes16;

void nothing() {}

// --- samples ----------------------------------------------------------------------------------------------------------

inline __m512 numbers_at(const void* from, bool bf16, int64_t at, int count) {
  const __mmask16 own = lanes16(count);
  if (!bf16) return _mm512_maskz_loadu_ps(own, static_cast<const float*>(from) + at);
  const __m256i bits = _mm256_maskz_loadu_epi16(own, static_cast<const uint16_t*>(from) + at);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

void round(const void* from, bool bf16, int64_t count, int64_t blocks, uint8_t* to, float* scale) {
  __m512i most = _mm512_setzero_si512();  // magnitudes as integers: NaN is above infinity, which is above all others
  for (int64_t i = 0; i < count; i += 16) {
    const __m512i bits = _mm512_castps_si512(numbers_at(from, bf16, i, int(count - i < 16 ? count - i : 16)));
    most = _mm512_max_epi32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
  const int largest = _mm512_reduce_max_epi32(most);
  float magnitude;
  __builtin_memcpy(&magnitude, &largest, 4);
  const bool finite = largest < 0x7f800000, some = finite && magnitude >= 1e-36f;
  *scale = !finite ? __builtin_nanf("") : some ? magnitude / 127.0f : 0.0f;
  const __m512 factor = _mm512_set1_ps(some ? 127.0f / magnitude : 0.0f);
  for (int64_t i = 0; i < blocks * kInputs; i += 16) {
    const int here = int(count - i < 16 ? count - i : 16);
    const __m512 v = some ? numbers_at(from, bf16, i, here) : _mm512_setzero_ps();
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(v, factor));  // to the nearest, ties to even
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(kOffset)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), bytes);
  }
}

void right(const uint8_t* rows, int64_t stride, void* block) {
  for (int half = 0; half < 2; ++half) {
    __m512i v[16];
    for (int i = 0; i < 16; ++i) v[i] = half::load_line(rows + (half * 16 + i) * stride);
    half::transpose_pairs(v);
    for (int i = 0; i < 16; ++i) half::store_line(block, half * 16 + i, v[i]);
  }
}

// --- weights ----------------------------------------------------------------------------------------------------------

inline __m512i expanded(uint64_t mask, const int8_t* values) {
  return _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(values));
}

inline void prefetch(const int8_t* values) { _mm_prefetch(reinterpret_cast<const char*>(values + 1024), _MM_HINT_T0); }

void expand(const uint64_t* masks, const int8_t* values, void* block) {
  for (int row = 0; row < kRows; ++row) {
    prefetch(values);
    half::store_line(block, row, expanded(masks[row], values));
    values += __builtin_popcountll(masks[row]);
  }
}

// --- products ---------------------------------------------------------------------------------------------------------

template <int Rows>
void multiply_rows(const int8_t* left, const uint8_t* right, const int32_t* rights, int count, bool add, int32_t* sums) {
  __m512i sum[Rows][2];
  for (int r = 0; r < Rows; ++r) {
    for (int half = 0; half < 2; ++half)
      sum[r][half] = add ? _mm512_loadu_si512(sums + r * kRows + half * 16) : _mm512_setzero_si512();
  }
  for (int n = 0; n < count; ++n) {
    const int8_t* a = left + int64_t(n) * kBlock;
    const uint8_t* b = right + int64_t(rights[n]) * kBlock;
    for (int q = 0; q < 16; ++q) {
      const __m512i b0 = _mm512_loadu_si512(b + q * 64), b1 = _mm512_loadu_si512(b + (16 + q) * 64);
      for (int r = 0; r < Rows; ++r) {
        int four;
        __builtin_memcpy(&four, a + r * kInputs + 4 * q, 4);
        const __m512i weights = _mm512_set1_epi32(four);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], b0, weights);
        sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], b1, weights);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int half = 0; half < 2; ++half) _mm512_storeu_si512(sums + r * kRows + half * 16, sum[r][half]);
  }
}

void multiply(const int8_t* left, const uint8_t* right, const int32_t* rights, int count, int rows, int, bool add,
              int32_t* sums) {
  int row = 0;
  for (; row + 8 <= rows; row += 8)
    multiply_rows<8>(left + row * kInputs, right, rights, count, add, sums + row * kRows);
  for (; row < rows; ++row) multiply_rows<1>(left + row * kInputs, right, rights, count, add, sums + row * kRows);
}

// Sixteen rows at a time, each with a vector of sums of its own.
void half_panel(const uint64_t* masks, const int8_t* values, const int32_t* first, int64_t count, const uint8_t* x,
                bool upper, int32_t* to) {
  __m512i sum[16];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int64_t block = 0; block < count; ++block, masks += kRows) {
    if (first[block] == first[block + 1]) continue;
    const int8_t* next = values + first[block];
    for (int row = 0; upper && row < 16; ++row) next += __builtin_popcountll(masks[row]);
    const uint64_t* own = masks + (upper ? 16 : 0);
    const __m512i some = _mm512_loadu_si512(x + block * kInputs);
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row) {
      prefetch(next);
      sum[row] = _mm512_dpbusd_epi32(sum[row], some, expanded(own[row], next));
      next += __builtin_popcountll(own[row]);
    }
  }
  for (int row = 0; row < 16; ++row) to[row] = _mm512_reduce_add_epi32(sum[row]);
}

void panel(const uint64_t* masks, const int8_t* values, const int32_t* first, int64_t count, const uint8_t* x,
           int32_t* sums) {
  half_panel(masks, values, first, count, x, false, sums);
  half_panel(masks, values, first, count, x, true, sums + 16);
}

// --- results ----------------------------------------------------------------------------------------------------------

// Sixteen samples of row `row`, as numbers.
inline __m512 numbers_of(const int32_t* sums, const int32_t* totals, const float* scales, __m512 of, const float* bias,
                         int row) {
  const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums), _mm512_set1_epi32(kOffset * totals[row]));
  const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(scales[row]), of);
  const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
  return bias ? _mm512_add_ps(y, _mm512_set1_ps(bias[row])) : y;
}

void write(const int32_t* sums, const int32_t* totals, const float* scales, const float* of, const float* bias,
           const half::Target& to) {
  for (int part = 0; part < to.rows; part += 16) {
    const __m512 own = _mm512_maskz_loadu_ps(lanes16(to.rows - part), of + part);
    for (int column = 0; column < to.columns; column += 16) {
      __m512i v[16];
      for (int r = 0; r < 16; ++r) {
        const int row = column + r;
        v[r] = row < to.columns
                   ? _mm512_castps_si512(numbers_of(sums + row * kRows + part, totals, scales, own, bias, row))
                   : _mm512_setzero_si512();
      }
      half::transpose_pairs(v);
      const __mmask16 there = lanes16(to.columns - column);
      for (int i = 0; i < 16 && part + i < to.rows; ++i) {
        const int64_t at = (part + i) * to.stride + column;
        const __m512 line = _mm512_castsi512_ps(v[i]);
        if (to.bf16)
          _mm256_mask_storeu_epi16(static_cast<uint16_t*>(to.at) + at, there, (__m256i)_mm512_cvtneps_pbh(line));
        else
          _mm512_mask_storeu_ps(static_cast<float*>(to.at) + at, there, line);
      }
    }
  }
}

}  // namespace

const Kernels vnni_kernels = {nothing, nothing, round, right, expand, multiply, panel, write};

}  // namespace secateur::int8
