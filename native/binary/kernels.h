// What a set of instructions provides to multiply numbers that are +1 or −1, a bit for each: 1 for +1.
//
// Of n places where both are told, two rows of bits agree in n − popcount(x ^ w) and differ in the others, so that
// Σ x w = n − 2 · popcount(x ^ w). Where weights are pruned, only the bits of a mask are counted.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur::binary {

constexpr int kLine = 8;     // words of 64 bits: rows are whole lines, zeros behind their end
constexpr int kRows = 4;     // of weights at a time
constexpr int kSamples = 4;  // and of samples

struct Kernels {
  // The signs of `count` numbers to as many lines as they fill; false where one is neither +1 nor −1.
  bool (*pack)(const float* x, int64_t count, uint64_t* words);
  // differ[s][r] += popcount((x[s] ^ w[r]) & mask[r]) for `samples` ≤ 4 and `rows` ≤ 4 rows of `lines` lines that lie
  // behind each other; without a mask (null) of all bits.
  void (*differ)(const uint64_t* x, int samples, const uint64_t* w, const uint64_t* mask, int rows, int64_t lines,
                 int32_t (*found)[kRows]);
};

#if defined(SECATEUR_HAVE_VPOPCNTDQ)
Kernels with_counts(Kernels base);  // vpopcntdq
#endif

}  // namespace secateur::binary

namespace secateur {
using BinaryKernels = binary::Kernels;
}
SECATEUR_DECLARE_TABLE(BinaryKernels, binary_kernels)
