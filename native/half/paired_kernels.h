// The kernels for blocks of 64 outputs × 2 inputs, for sets with pairs of bfloat16.
//
// Included by one file that is compiled with its own flags (half/pairs.h).

#pragma once

#include "half/pairs.h"

namespace secateur::half {
namespace {

// Sixteen columns of four rows, which lie [16][4], as four vectors.
inline void turn_four(const float* values, __m512 row[4]) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512 v[4];  // each: four columns of row 0, of row 1, …
  for (int i = 0; i < 4; ++i) v[i] = _mm512_permutexvar_ps(order, _mm512_loadu_ps(values + 16 * i));
  const __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44), b = _mm512_shuffle_f32x4(v[2], v[3], 0x44);
  const __m512 c = _mm512_shuffle_f32x4(v[0], v[1], 0xee), d = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  row[0] = _mm512_shuffle_f32x4(a, b, 0x88), row[1] = _mm512_shuffle_f32x4(a, b, 0xdd);
  row[2] = _mm512_shuffle_f32x4(c, d, 0x88), row[3] = _mm512_shuffle_f32x4(c, d, 0xdd);
}

void round_four(const float* values, int64_t lines, uint16_t* rows) {
  for (int64_t line = 0; line < lines; ++line, values += 4 * kLine, rows += kBlock) {
    __m512 low[4], high[4];
    turn_four(values, low), turn_four(values + 2 * kLine, high);
    for (int r = 0; r < 4; ++r) store_line(rows, r, (__m512i)_mm512_cvtne2ps_pbh(high[r], low[r]));
  }
}

// Pairs lie 16 to a block, each with a line for either half of the columns.
inline const uint16_t* pair_line(const void* right, int32_t pair) {
  return static_cast<const uint16_t*>(right) + int64_t(pair >> 4) * kBlock + (pair & 15) * kLine;
}

void take(const void* right, const int32_t* pairs, int64_t count, bool both_halves, void* to) {
  constexpr int kHalfBlock = kBlock / 2;
  uint16_t* block = static_cast<uint16_t*>(to);
  for (int64_t done = 0; done < count; done += 16, block += kBlock) {
    const int here = int(count - done < 16 ? count - done : 16);
    for (int i = 0; i < here; ++i) {
      const uint16_t* from = pair_line(right, pairs[done + i]);
      store_line(block, i, load_line(from));
      if (both_halves) store_line(block, 16 + i, load_line(from + kHalfBlock));
    }
    for (int i = here; i < 16; ++i) {  // zeros: a number that is not finite must not meet a weight that is none
      store_line(block, i, _mm512_setzero_si512()), store_line(block, 16 + i, _mm512_setzero_si512());
    }
  }
}

void take_rows(const void* left, const int32_t* pairs, int64_t count, void* to) {
  for (int64_t i = 0; i < 16; ++i) {
    const bool is_there = i < count;
    const uint16_t* from = static_cast<const uint16_t*>(left) + (is_there ? int64_t(pairs[i]) * 2 * kLine : 0);
    store_line(to, int(2 * i), is_there ? load_line(from) : _mm512_setzero_si512());
    store_line(to, int(2 * i + 1), is_there ? load_line(from + kLine) : _mm512_setzero_si512());
  }
}

void add_rows(const float* sums, const int32_t* pairs, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i, sums += 2 * kSide) {
    float* at = to + int64_t(pairs[i]) * 2 * kSide;
    for (int part = 0; part < 2 * kSide; part += 16)
      _mm512_storeu_ps(at + part, _mm512_add_ps(_mm512_loadu_ps(at + part), _mm512_loadu_ps(sums + part)));
  }
}

void take_line(const void* x, const int32_t* pairs, int64_t count, int64_t lines, void* to) {
  for (int64_t line = 0; line < lines; ++line) {
    const __mmask16 own = lanes16(int(count - 16 * line < 16 ? count - 16 * line : 16));
    const __m512i which = _mm512_maskz_loadu_epi32(own, pairs + 16 * line);
    store_line(to, int(line), _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), own, which, x, 4));
  }
}

// Sixteen rows at a time, each with a vector of sums of its own.
void paired_panel(const uint16_t* left, int64_t lines, const void* x, float* sums) {
  const uint16_t* samples = static_cast<const uint16_t*>(x);
  for (int half = 0; half < kSide; half += 16) {
    __m512 sum[16];
    for (__m512& s : sum) s = _mm512_setzero_ps();
    for (int64_t line = 0; line < lines; ++line) {
      const uint16_t* rows = left + line * kBlock + half * kLine;
      const __m512bh some = (__m512bh)load_line(samples + line * kLine);
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        _mm_prefetch(reinterpret_cast<const char*>(rows + 2 * kBlock + r * kLine), _MM_HINT_T0);
        sum[r] = _mm512_dpbf16_ps(sum[r], some, (__m512bh)load_line(rows + r * kLine));
      }
    }
    for (int r = 0; r < 16; ++r) sums[half + r] = _mm512_reduce_add_ps(sum[r]);
  }
}

const PairedKernels paired_kernels = {round_four, take, take_rows, add_rows, take_line, paired_panel};

}  // namespace
}  // namespace secateur::half
