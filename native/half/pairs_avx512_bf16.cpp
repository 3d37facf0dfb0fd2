// vdpbf16ps multiplies pairs of bfloat16 and adds to float32 (Zen 4, Cooper Lake and later).

#include "half/paired_kernels.h"
#include "half/pairs.h"

namespace secateur::half {
namespace {

// --- packing -------------------------------------------------------------------------------------------------------

void left(const Corner& c, void* block) {
  for (int row = 0; row < kSide; ++row) store_line(block, row, row_of(c, row));
}

void right(const Corner& c, void* block) {
  for (int half = 0; half < 2; ++half) {
    for (int q = 0; q < 16; ++q) store_line(block, half * 16 + q, rows_of(c, q, 16 * half));
  }
}

void left_turned(const Corner& c, void* block) {
  for (int half = 0; half < 2; ++half) {
    __m512i v[16];
    for (int q = 0; q < 16; ++q) v[q] = rows_of(c, q, 16 * half);
    transpose_pairs(v);
    for (int i = 0; i < 16; ++i) store_line(block, half * 16 + i, v[i]);
  }
}

void right_turned(const Corner& c, void* block) {
  for (int half = 0; half < 2; ++half) {
    __m512i v[16];
    for (int i = 0; i < 16; ++i) v[i] = row_of(c, half * 16 + i);
    transpose_pairs(v);
    for (int q = 0; q < 16; ++q) store_line(block, half * 16 + q, v[q]);
  }
}

void line(const Corner& c, void* x) { store_line(x, 0, row_of(c, 0)); }

// --- weights -------------------------------------------------------------------------------------------------------

void weights_left(const uint32_t* masks, const uint16_t* values, void* block) {
  for (int row = 0; row < kSide; ++row) {
    prefetch_values(values);
    store_line(block, row, expand_row(masks[row], values));
    values += __builtin_popcount(masks[row]);
  }
}

void weights_right(const uint32_t* masks, const uint16_t* values, void* block) {
  for (int q = 0; q < 16; ++q, masks += 2) {
    prefetch_values(values);
    const __m512i even = expand_row(masks[0], values);
    values += __builtin_popcount(masks[0]);
    const __m512i odd = expand_row(masks[1], values);
    values += __builtin_popcount(masks[1]);
    // Unpacked within 128 bits, then those put in order: low and high hold columns 0–3, 8–11, … and 4–7, 12–15, …
    const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
    store_line(block, q, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high));
    store_line(block, 16 + q, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high));
  }
}

// --- products ------------------------------------------------------------------------------------------------------

inline __m512 dots(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline __m512i pair_at(const uint16_t* at) {
  int pair;
  __builtin_memcpy(&pair, at, 4);
  return _mm512_set1_epi32(pair);
}

// `Rows` rows × 32 columns: 2 · Rows sums hide the latency of vdpbf16ps.
template <int Rows>
void multiply_rows(const uint16_t* left, const int32_t* lefts, const uint16_t* right, const int32_t* rights, int count,
                   bool add, float* sums) {
  __m512 sum[Rows][2];
  for (int r = 0; r < Rows; ++r) {
    for (int half = 0; half < 2; ++half)
      sum[r][half] = add ? _mm512_loadu_ps(sums + r * kSide + half * 16) : _mm512_setzero_ps();
  }
  for (int n = 0; n < count; ++n) {
    const uint16_t* a = left + int64_t(lefts[n]) * kBlock;
    const uint16_t* b = right + int64_t(rights[n]) * kBlock;
    for (int q = 0; q < 16; ++q) {
      const __m512i b0 = load_line(b + q * kLine), b1 = load_line(b + (16 + q) * kLine);
      for (int r = 0; r < Rows; ++r) {
        const __m512i pair = pair_at(a + r * kLine + 2 * q);
        sum[r][0] = dots(sum[r][0], pair, b0);
        sum[r][1] = dots(sum[r][1], pair, b1);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int half = 0; half < 2; ++half) _mm512_storeu_ps(sums + r * kSide + half * 16, sum[r][half]);
  }
}

void multiply(const void* left, const int32_t* lefts, const void* right, const int32_t* rights, int count, int rows,
              int, bool add, float* sums) {
  const uint16_t *a = static_cast<const uint16_t*>(left), *b = static_cast<const uint16_t*>(right);
  int row = 0;
  for (; row + 8 <= rows; row += 8)
    multiply_rows<8>(a + row * kLine, lefts, b, rights, count, add, sums + row * kSide);
  for (; row + 4 <= rows; row += 4)
    multiply_rows<4>(a + row * kLine, lefts, b, rights, count, add, sums + row * kSide);
  for (; row < rows; ++row) multiply_rows<1>(a + row * kLine, lefts, b, rights, count, add, sums + row * kSide);
}

// Sixteen rows of a panel: each has a vector of sums of its own, so that weights never leave the registers.
void half_panel(const uint32_t* masks, const uint16_t* values, const int32_t* first, int64_t count, const uint16_t* x,
                bool upper, float* to) {
  __m512 sum[16];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int64_t block = 0; block < count; ++block, masks += kSide) {
    if (first[block] == first[block + 1]) continue;
    const uint16_t* next = values + first[block];
    if (upper) {
      for (int row = 0; row < 16; ++row) next += __builtin_popcount(masks[row]);
    }
    const uint32_t* own = masks + (upper ? 16 : 0);
    const __m512i some = load_line(x + block * kSide);
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row) {
      prefetch_values(next);
      sum[row] = dots(sum[row], some, expand_row(own[row], next));
      next += __builtin_popcount(own[row]);
    }
  }
  for (int row = 0; row < 16; ++row) to[row] = _mm512_reduce_add_ps(sum[row]);
}

void panel(const uint32_t* masks, const uint16_t* values, const int32_t* first, int64_t count, const void* x,
           float* sums) {
  const uint16_t* at = static_cast<const uint16_t*>(x);
  half_panel(masks, values, first, count, at, false, sums);
  half_panel(masks, values, first, count, at, true, sums + 16);
}

// --- results -------------------------------------------------------------------------------------------------------

void write_line(const Target& to, int row, __m512i line) {
  _mm512_mask_storeu_epi16(static_cast<uint16_t*>(to.at) + row * to.stride, lanes32(to.columns), line);
}

void write_floats(const Target& to, int row, int column, __m512 v) {
  _mm512_mask_storeu_ps(static_cast<float*>(to.at) + row * to.stride + column, lanes16(to.columns - column), v);
}

void write(const float* sums, const Target& to) {
  for (int row = 0; row < to.rows; ++row, sums += kSide) {
    const __m512 low = _mm512_loadu_ps(sums), high = _mm512_loadu_ps(sums + 16);
    if (to.bf16) {
      write_line(to, row, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    } else {
      write_floats(to, row, 0, low), write_floats(to, row, 16, high);
    }
  }
}

// Row `row` of the sums with its bias, sixteen columns of it.
inline __m512 biased(const float* sums, const float* bias, int row, int rows, int column) {
  const __m512 v = _mm512_loadu_ps(sums + row * kSide + column);
  return bias && row < rows ? _mm512_add_ps(v, _mm512_set1_ps(bias[row])) : v;
}

// Two rows become pairs of bfloat16 before they are turned, for half as many shuffles.
void write_turned_bf16(const float* sums, const float* bias, const Target& to, int half) {
  __m512i v[16];
  for (int q = 0; q < 16; ++q) {
    const __m512 even = biased(sums, bias, 2 * q, to.columns, 16 * half);
    v[q] = rounded_pairs(even, biased(sums, bias, 2 * q + 1, to.columns, 16 * half));
  }
  transpose_pairs(v);
  for (int i = 0; i < 16 && half * 16 + i < to.rows; ++i) write_line(to, half * 16 + i, v[i]);
}

void write_turned_floats(const float* sums, const float* bias, const Target& to, int half, int column) {
  __m512i v[16];
  for (int r = 0; r < 16; ++r) v[r] = _mm512_castps_si512(biased(sums, bias, column + r, to.columns, 16 * half));
  transpose_pairs(v);
  for (int i = 0; i < 16 && half * 16 + i < to.rows; ++i)
    write_floats(to, half * 16 + i, column, _mm512_castsi512_ps(v[i]));
}

void write_turned(const float* sums, const float* bias, const Target& to) {
  for (int half = 0; half < 2 && half * 16 < to.rows; ++half) {
    if (to.bf16) {
      write_turned_bf16(sums, bias, to, half);
    } else {
      for (int column = 0; column < to.columns; column += 16) write_turned_floats(sums, bias, to, half, column);
    }
  }
}

// --- rounding ------------------------------------------------------------------------------------------------------

void round(const uint32_t* masks, const int32_t* starts, const float* values, uint16_t* packed) {
  for (int row = 0; row < kSide; ++row) {
    const int count = __builtin_popcount(masks[row]);
    const uint32_t lanes = uint32_t((uint64_t(1) << count) - 1);  // counts vary: a branch would often go wrong
    const float* from = values + starts[row];
    const __m512 low = _mm512_maskz_loadu_ps(__mmask16(lanes), from);
    const __m512 high = _mm512_maskz_loadu_ps(__mmask16(lanes >> 16), from + 16);
    _mm512_mask_storeu_epi16(packed, lanes, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    packed += count;
  }
}

}  // namespace

Kernels with_pairs(Kernels base) {
  Kernels set = base;
  set.block_bytes = 2 * kBlock;
  set.left = left, set.left_turned = left_turned, set.right = right, set.right_turned = right_turned;
  set.weights_left = weights_left, set.weights_right = weights_right;
  set.multiply = multiply;
  set.line = line, set.panel = panel;
  set.write = write, set.write_turned = write_turned;
  set.round = round;
  set.paired = &paired_kernels;
  return set;
}

}  // namespace secateur::half
