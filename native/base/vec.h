// The vector type of one instruction set, in GCC's vector extensions: one source serves every set.
//
// Include it only from kernel files (see isa.h). Everything has internal linkage.

#pragma once

#include <cstdint>

namespace secateur::SECATEUR_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Activations come in tiles of 16 samples, whatever the width of a vector.
constexpr int kTile = 16;
constexpr int kVecsPerTile = kTile / kLanes;
// Accumulators of one pass; with the operands they must fit the register file (32, 16 and 16 registers).
constexpr int kMaxVecs = 8;

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
// The same in memory, where nothing is aligned to more than a float.
typedef float LooseVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t LooseIntVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
inline Vec splat(float x) { return Vec{} + x; }
inline Vec bits_to_float(IntVec v) { return reinterpret_cast<Vec>(v); }
inline IntVec float_to_bits(Vec v) { return reinterpret_cast<IntVec>(v); }

// max(x, 0) and its derivative's mask, as torch defines them: NaN stays NaN in both.
inline Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }
inline Vec relu_gradient(Vec activation, Vec g) { return activation <= 0.0f ? Vec{} : g; }

// (a0 b0 a1 b1 …) of the lower or the upper halves of `a` and `b`.
inline Vec interleave_low(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shuffle(a, b, IntVec{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
#elif defined(__AVX2__)
  return __builtin_shuffle(a, b, IntVec{0, 8, 1, 9, 2, 10, 3, 11});
#else
  return __builtin_shuffle(a, b, IntVec{0, 4, 1, 5});
#endif
}
inline Vec interleave_high(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shuffle(a, b, IntVec{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
#elif defined(__AVX2__)
  return __builtin_shuffle(a, b, IntVec{4, 12, 5, 13, 6, 14, 7, 15});
#else
  return __builtin_shuffle(a, b, IntVec{2, 6, 3, 7});
#endif
}

// Joins N vectors into one, destroying `a`: after reducing kLanes vectors in all, in one step or in several,
// lane i of the result is the sum of vector i's lanes.
template <int N>
inline Vec sums(Vec* a) {
#pragma GCC unroll 4
  for (int half = N / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) a[i] = interleave_low(a[i], a[i + half]) + interleave_high(a[i], a[i + half]);
  }
  return a[0];
}

// Transposes kLanes × kLanes floats: interleaving a perfect shuffle log2(kLanes) times.
inline void transpose(Vec* a) {
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Vec b[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      b[2 * i] = interleave_low(a[i], a[i + kLanes / 2]);
      b[2 * i + 1] = interleave_high(a[i], a[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) a[i] = b[i];
  }
}

inline float sum(Vec v) {
  float total = 0.0f;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// e^x to about 2 ulp for x ≤ 0 (Cephes' expf); below −87 it is about 1e-38, NaN stays NaN.
inline Vec exp_of_negative(Vec x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  const float to_integer = 12582912.0f;  // 1.5 · 2^23: adding it leaves round(x) in the low mantissa bits
  const Vec shifted = x * 1.44269504f + to_integer;
  const Vec n = shifted - to_integer;
  const Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * bits_to_float((float_to_bits(shifted) + 127) << 23);
}

}  // namespace
}  // namespace secateur::SECATEUR_ISA
