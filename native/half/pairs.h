// Blocks as pairs of bfloat16, the operands of vdpbf16ps and tdpbf16ps, made with AVX-512 (VBMI2 and BF16).
//
//     left  [32 rows][16 pairs][2]               columns contract, two neighbours to a pair
//     right [2 halves][16 pairs][16 columns][2]  rows contract
//
// Included by files compiled with their own flags: everything has internal linkage, or the linker would merge what
// must stay apart (base/isa.h).

#pragma once

#include <immintrin.h>

#include "half/kernels.h"

namespace secateur::half {
namespace {

constexpr int kLine = 32;  // numbers of a vector

inline __m512i load_line(const void* at) { return _mm512_loadu_si512(at); }
inline void store_line(void* block, int line, __m512i v) {
  _mm512_storeu_si512(static_cast<uint16_t*>(block) + line * kLine, v);
}

inline __mmask16 lanes16(int count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : __mmask16((1u << count) - 1); }
inline __mmask32 lanes32(int count) { return count >= 32 ? ~0u : count <= 0 ? 0 : (1u << count) - 1; }

// The first of `a`, the first of `b`, the second of `a`, …, from 16 numbers of each.
inline __m512i interleaved(__m256i a, __m256i b) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

// The same, of float32 numbers that are rounded.
inline __m512i rounded_pairs(__m512 a, __m512 b) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

// Row `row` of a corner: its columns, rounded. The instruction takes float32 below 1.2e-38 for zero.
inline __m512i row_of(const Corner& c, int row) {
  if (row >= c.rows) return _mm512_setzero_si512();
  if (c.bf16) return _mm512_maskz_loadu_epi16(lanes32(c.columns), static_cast<const uint16_t*>(c.at) + row * c.stride);
  const float* at = static_cast<const float*>(c.at) + row * c.stride;
  const __m512 low = _mm512_maskz_loadu_ps(lanes16(c.columns), at);
  const __m512 high = _mm512_maskz_loadu_ps(lanes16(c.columns - 16), at + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// Rows 2q and 2q + 1 as pairs, for sixteen columns, rounded.
inline __m512i rows_of(const Corner& c, int q, int column) {
  const __mmask16 own = lanes16(c.columns - column);
  const __mmask16 even = 2 * q < c.rows ? own : __mmask16(0), odd = 2 * q + 1 < c.rows ? own : __mmask16(0);
  const int64_t at = 2 * q * c.stride + column;
  if (c.bf16) {
    const uint16_t* from = static_cast<const uint16_t*>(c.at) + at;
    return interleaved(_mm256_maskz_loadu_epi16(even, from), _mm256_maskz_loadu_epi16(odd, from + c.stride));
  }
  const float* from = static_cast<const float*>(c.at) + at;
  return rounded_pairs(_mm512_maskz_loadu_ps(even, from), _mm512_maskz_loadu_ps(odd, from + c.stride));
}

// 16 × 16 transpose of 32-bit elements.
inline void transpose_pairs(__m512i v[16]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
    a[4 + j] = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    a[8 + j] = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    a[12 + j] = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
  }
  for (int j = 0; j < 4; ++j) {
    v[j] = _mm512_shuffle_i32x4(a[j], a[8 + j], 0x88);
    v[8 + j] = _mm512_shuffle_i32x4(a[j], a[8 + j], 0xdd);
    v[4 + j] = _mm512_shuffle_i32x4(a[4 + j], a[12 + j], 0x88);
    v[12 + j] = _mm512_shuffle_i32x4(a[4 + j], a[12 + j], 0xdd);
  }
}

// One row of 32 weights: the bits of the mask take values one after the other.
inline __m512i expand_row(uint32_t mask, const uint16_t* values) {
  return _mm512_maskz_expand_epi16(mask, load_line(values));
}

// Expansion uses memory faster than the processor's own prefetching follows.
inline void prefetch_values(const uint16_t* values) { _mm_prefetch(reinterpret_cast<const char*>(values + 512), _MM_HINT_T0); }

}  // namespace
}  // namespace secateur::half
