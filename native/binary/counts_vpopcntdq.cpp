// vpopcntq counts the bits of eight words at once (AVX512-VPOPCNTDQ).

#include <immintrin.h>

#include "binary/counted.h"

namespace secateur::binary {
namespace {

struct Counted {
  using Sums = __m512i;
  static constexpr int words = 8;
  __m512i v;

  static Sums zero() { return _mm512_setzero_si512(); }
  static Counted load(const uint64_t* at) { return {_mm512_loadu_si512(at)}; }
  static Counted apart(Counted a, Counted b) { return {_mm512_xor_si512(a.v, b.v)}; }
  static Counted both(Counted a, Counted b) { return {_mm512_and_si512(a.v, b.v)}; }
  static Sums counted(Sums sums, Counted bits) { return _mm512_add_epi64(sums, _mm512_popcnt_epi64(bits.v)); }
  static int32_t total(Sums sums) { return static_cast<int32_t>(_mm512_reduce_add_epi64(sums)); }
};

}  // namespace

Kernels with_counts(Kernels base) {
  base.differ = differ_in<Counted>;
  return base;
}

}  // namespace secateur::binary
