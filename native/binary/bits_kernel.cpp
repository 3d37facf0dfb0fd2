// Bits are counted by the table of a half byte (Muła), or in words where there are no such instructions.

#include "binary/counted.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace secateur::SECATEUR_ISA {
namespace {

#if defined(__AVX512BW__)
struct Bits {
  using Sums = __m512i;
  static constexpr int words = 8;
  __m512i v;

  static Sums zero() { return _mm512_setzero_si512(); }
  static Bits load(const uint64_t* at) { return {_mm512_loadu_si512(at)}; }
  static Bits apart(Bits a, Bits b) { return {_mm512_xor_si512(a.v, b.v)}; }
  static Bits both(Bits a, Bits b) { return {_mm512_and_si512(a.v, b.v)}; }
  static Sums counted(Sums sums, Bits bits) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i one = _mm512_shuffle_epi8(table, _mm512_and_si512(bits.v, low));
    const __m512i two = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bits.v, 4), low));
    return _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_add_epi8(one, two), _mm512_setzero_si512()));
  }
  static int32_t total(Sums sums) { return static_cast<int32_t>(_mm512_reduce_add_epi64(sums)); }
};
#elif defined(__AVX2__)
struct Bits {
  using Sums = __m256i;
  static constexpr int words = 4;
  __m256i v;

  static Sums zero() { return _mm256_setzero_si256(); }
  static Bits load(const uint64_t* at) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))}; }
  static Bits apart(Bits a, Bits b) { return {_mm256_xor_si256(a.v, b.v)}; }
  static Bits both(Bits a, Bits b) { return {_mm256_and_si256(a.v, b.v)}; }
  static Sums counted(Sums sums, Bits bits) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i one = _mm256_shuffle_epi8(table, _mm256_and_si256(bits.v, low));
    const __m256i two = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits.v, 4), low));
    return _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_add_epi8(one, two), _mm256_setzero_si256()));
  }
  static int32_t total(Sums sums) {
    alignas(32) int64_t four[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(four), sums);
    return static_cast<int32_t>(four[0] + four[1] + four[2] + four[3]);
  }
};
#else
struct Bits {
  using Sums = uint64_t;
  static constexpr int words = 1;
  uint64_t v;

  static Sums zero() { return 0; }
  static Bits load(const uint64_t* at) { return {*at}; }
  static Bits apart(Bits a, Bits b) { return {a.v ^ b.v}; }
  static Bits both(Bits a, Bits b) { return {a.v & b.v}; }
  static Sums counted(Sums sums, Bits bits) {  // in pairs, in fours, in bytes, and these added up by a product
    uint64_t v = bits.v - (bits.v >> 1 & 0x5555555555555555u);
    v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return sums + (v * 0x0101010101010101u >> 56);
  }
  static int32_t total(Sums sums) { return static_cast<int32_t>(sums); }
};
#endif

bool pack(const float* x, int64_t count, uint64_t* words) {
  constexpr uint32_t one = 0x3f800000u;
  uint32_t wrong = 0;
  const int64_t lines = (count + 64 * binary::kLine - 1) / (64 * binary::kLine);
  for (int64_t w = 0; w < lines * binary::kLine; ++w) {
    const int64_t begin = 64 * w, here = count - begin < 0 ? 0 : count - begin < 64 ? count - begin : 64;
    uint64_t word = 0;
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= here; i += 16) {
      const __m512i bits = _mm512_loadu_si512(x + begin + i);
      const __m512i size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
      wrong |= _mm512_cmpneq_epi32_mask(size, _mm512_set1_epi32(static_cast<int>(one)));
      word |= static_cast<uint64_t>(_mm512_cmpge_epi32_mask(bits, _mm512_setzero_si512())) << i;
    }
#endif
    for (; i < here; ++i) {
      uint32_t bits;
      __builtin_memcpy(&bits, x + begin + i, 4);
      wrong |= (bits & 0x7fffffffu) ^ one;
      word |= static_cast<uint64_t>(~bits >> 31) << i;
    }
    words[w] = word;
  }
  return wrong == 0;
}

}  // namespace

const BinaryKernels binary_kernels = {pack, binary::differ_in<Bits>};

}  // namespace secateur::SECATEUR_ISA
