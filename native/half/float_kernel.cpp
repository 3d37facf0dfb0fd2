// Blocks of bfloat16 numbers as float32: for every processor. Compiled once per instruction set.

#include "half/kernels.h"

#include "base/vec.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace secateur::SECATEUR_ISA {
namespace {

using half::Corner;
using half::kBlock;
using half::kSide;
using half::Target;

// Rows of sums at once; with two vectors of columns they fill the registers.
constexpr int kRows = kLanes == 16 ? 8 : 4;
constexpr int kColumns = 2 * kLanes;

void nothing() {}

// --- numbers -------------------------------------------------------------------------------------------------------

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

inline float widened(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }

// To the nearest bfloat16, ties to even; NaN stays NaN. Without a branch, so that loops over it become vectors.
inline uint16_t rounded(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
  return uint16_t(((bits & 0x7fffffff) > 0x7f800000 ? quiet : nearest) >> 16);
}

// --- packing -------------------------------------------------------------------------------------------------------

void read_row(const Corner& from, int row, float* to) {
  if (from.bf16) {
    const uint16_t* at = static_cast<const uint16_t*>(from.at) + row * from.stride;
    for (int i = 0; i < from.columns; ++i) to[i] = widened(at[i]);
  } else {
    const float* at = static_cast<const float*>(from.at) + row * from.stride;
    for (int i = 0; i < from.columns; ++i) to[i] = widened(rounded(at[i]));
  }
  for (int i = from.columns; i < kSide; ++i) to[i] = 0.0f;
}

void straight(const Corner& from, void* block) {
  float* to = static_cast<float*>(block);
  for (int row = 0; row < from.rows; ++row) read_row(from, row, to + row * kSide);
  for (int i = from.rows * kSide; i < kBlock; ++i) to[i] = 0.0f;
}

// [32][32] to [32][32], turned.
void turn(const float* from, float* to) {
  for (int row = 0; row < kSide; row += kLanes) {
    for (int column = 0; column < kSide; column += kLanes) {
      Vec a[kLanes];
      for (int i = 0; i < kLanes; ++i) a[i] = load(from + (row + i) * kSide + column);
      transpose(a);
      for (int i = 0; i < kLanes; ++i) store(to + (column + i) * kSide + row, a[i]);
    }
  }
}

void turned(const Corner& from, void* block) {
  alignas(64) float rows[kBlock];
  straight(from, rows);
  turn(rows, static_cast<float*>(block));
}

void line(const Corner& from, void* x) { read_row(from, 0, static_cast<float*>(x)); }

// --- weights -------------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)
// The values that 16 bits of a mask place, widened.
inline void expand_row(uint32_t mask, const uint16_t* values, float* to) {
  for (int part = 0; part < 2; ++part, mask >>= 16, to += 16) {
    const __m512i some = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
    const __m512i placed = _mm512_maskz_expand_epi32(__mmask16(mask), some);
    _mm512_storeu_si512(to, _mm512_slli_epi32(placed, 16));
    values += __builtin_popcount(mask & 0xffff);
  }
}
#elif defined(__AVX2__)
// For each byte of a mask: which of the next eight values goes to each place.
struct Places {
  uint8_t of[256][8];
  constexpr Places() : of() {
    for (int mask = 0; mask < 256; ++mask) {
      for (int place = 0, next = 0; place < 8; ++place) {
        of[mask][place] = uint8_t(next);
        next += mask >> place & 1;
      }
    }
  }
};
constexpr Places kPlaces;

inline void expand_row(uint32_t mask, const uint16_t* values, float* to) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int part = 0; part < 4; ++part, mask >>= 8, to += 8) {
    const __m256i some = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[mask & 0xff])));
    const __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(mask)), bit), bit);
    const __m256i wide = _mm256_slli_epi32(_mm256_permutevar8x32_epi32(some, order), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_and_si256(wide, kept));
    values += __builtin_popcount(mask & 0xff);
  }
}
#else
inline void expand_row(uint32_t mask, const uint16_t* values, float* to) {
  for (int i = 0; i < kSide; ++i) to[i] = 0.0f;
  for (; mask; mask &= mask - 1) to[__builtin_ctz(mask)] = widened(*values++);
}
#endif

void weights(const uint32_t* masks, const uint16_t* values, void* block) {
  float* to = static_cast<float*>(block);
  for (int row = 0; row < kSide; ++row, to += kSide) {
    expand_row(masks[row], values, to);
    values += __builtin_popcount(masks[row]);
  }
}

void panel(const uint32_t* masks, const uint16_t* values, const int32_t* first, int64_t count, const void* x,
           float* sums) {
  const float* at = static_cast<const float*>(x);
  Vec all[kSide] = {};
  for (int64_t block = 0; block < count; ++block, masks += kSide, at += kSide) {
    if (first[block] == first[block + 1]) continue;
    const uint16_t* next = values + first[block];
    for (int row = 0; row < kSide; ++row) {
      if (!masks[row]) continue;
      float wide[kSide];
      expand_row(masks[row], next, wide);
      next += __builtin_popcount(masks[row]);
      for (int i = 0; i < kSide; i += kLanes) all[row] += load(wide + i) * load(at + i);
    }
  }
  for (int row = 0; row < kSide; ++row) sums[row] = sum(all[row]);
}

// --- products ------------------------------------------------------------------------------------------------------

void multiply_some(const float* left, const int32_t* lefts, const float* right, const int32_t* rights, int count,
                   bool add, float* sums) {
  Vec s[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) s[r][i] = add ? load(sums + r * kSide + i * kLanes) : Vec{};
  }
  for (int n = 0; n < count; ++n) {
    const float* a = left + int64_t(lefts[n]) * kBlock;
    const float* b = right + int64_t(rights[n]) * kBlock;
    for (int k = 0; k < kSide; ++k, b += kSide) {
      const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        s[r][0] += b0 * a[r * kSide + k];
        s[r][1] += b1 * a[r * kSide + k];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) store(sums + r * kSide + i * kLanes, s[r][i]);
  }
}

void multiply(const void* left, const int32_t* lefts, const void* right, const int32_t* rights, int count, int rows,
              int columns, bool add, float* sums) {
  const float *a = static_cast<const float*>(left), *b = static_cast<const float*>(right);
  for (int row = 0; row < rows; row += kRows) {
    for (int column = 0; column < columns; column += kColumns)
      multiply_some(a + row * kSide, lefts, b + column, rights, count, add, sums + row * kSide + column);
  }
}

// --- results -------------------------------------------------------------------------------------------------------

void write_row(const float* sums, const Target& to, int row) {
  if (to.bf16) {
    uint16_t* at = static_cast<uint16_t*>(to.at) + row * to.stride;
    for (int i = 0; i < to.columns; ++i) at[i] = rounded(sums[i]);
  } else {
    __builtin_memcpy(static_cast<float*>(to.at) + row * to.stride, sums, size_t(to.columns) * sizeof(float));
  }
}

void write(const float* sums, const Target& to) {
  for (int row = 0; row < to.rows; ++row) write_row(sums + row * kSide, to, row);
}

void write_turned(const float* sums, const float* bias, const Target& to) {
  alignas(64) float rows[kBlock];
  turn(sums, rows);
  for (int row = 0; row < to.rows; ++row) {
    float* at = rows + row * kSide;
    if (bias) {
      for (int i = 0; i < to.columns; ++i) at[i] += bias[i];
    }
    write_row(at, to, row);
  }
}

void pick(const float* sums, const uint32_t* masks, const int32_t* starts, float* values) {
  for (int row = 0; row < kSide; ++row, sums += kSide) {
    const uint32_t mask = masks[row];
    if (!mask) continue;
    float* to = values + starts[row];
#if defined(__AVX512F__)
    // Masked stores: what lies behind belongs to another block, which another thread may be writing.
    for (int part = 0; part < 2; ++part) {
      const uint32_t own = mask >> (16 * part) & 0xffff;
      const int count = __builtin_popcount(own);
      const __m512 kept = _mm512_maskz_compress_ps(__mmask16(own), _mm512_loadu_ps(sums + 16 * part));
      _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), kept);
      to += count;
    }
#else
    for (uint32_t rest = mask; rest; rest &= rest - 1) *to++ = sums[__builtin_ctz(rest)];
#endif
  }
}

void round(const uint32_t* masks, const int32_t* starts, const float* values, uint16_t* packed) {
  for (int row = 0; row < kSide; ++row) {
    const int count = __builtin_popcount(masks[row]);
    for (int i = 0; i < count; ++i) packed[i] = rounded(values[starts[row] + i]);
    packed += count;
  }
}

}  // namespace

extern const HalfKernels half_kernels = {4 * kBlock, nothing,  nothing, straight, turned,
                                         straight,   turned,   weights, weights,  multiply,
                                         line,       panel,    write,   write_turned, pick, round, nullptr};

}  // namespace secateur::SECATEUR_ISA
