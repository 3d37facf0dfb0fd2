// The loops over rows and samples, for whatever vector the including file has: it defines `Bits`, a register of bits, with
// load, both, apart and counted into four or eight sums. All of it has internal linkage (base/isa.h says why).

#pragma once

#include <cstdint>

#include "binary/kernels.h"

namespace secateur::binary {
namespace {

// One tile: each line of weights meets each line of samples in registers.
template <class Bits, int Samples, int Rows, bool Masked>
void tile(const uint64_t* x, const uint64_t* w, const uint64_t* mask, int64_t lines, int32_t (*found)[kRows]) {
  typename Bits::Sums sums[Samples][Rows];
  for (auto& row : sums) {
    for (auto& sum : row) sum = Bits::zero();
  }
  const int64_t words = lines * kLine;
  for (int64_t at = 0; at < words; at += Bits::words) {
    Bits own[Samples];
    for (int s = 0; s < Samples; ++s) own[s] = Bits::load(x + s * words + at);
    for (int r = 0; r < Rows; ++r) {
      const Bits weights = Bits::load(w + r * words + at);
      const Bits there = Masked ? Bits::load(mask + r * words + at) : weights;
      for (int s = 0; s < Samples; ++s) {
        const Bits differ = Bits::apart(own[s], weights);
        sums[s][r] = Bits::counted(sums[s][r], Masked ? Bits::both(differ, there) : differ);
      }
    }
  }
  for (int s = 0; s < Samples; ++s) {
    for (int r = 0; r < Rows; ++r) found[s][r] = Bits::total(sums[s][r]);
  }
}

template <class Bits, int Samples, bool Masked>
void rows_of(const uint64_t* x, const uint64_t* w, const uint64_t* mask, int rows, int64_t lines,
             int32_t (*found)[kRows]) {
  if (rows == 4) return tile<Bits, Samples, 4, Masked>(x, w, mask, lines, found);
  if (rows == 3) return tile<Bits, Samples, 3, Masked>(x, w, mask, lines, found);
  if (rows == 2) return tile<Bits, Samples, 2, Masked>(x, w, mask, lines, found);
  tile<Bits, Samples, 1, Masked>(x, w, mask, lines, found);
}

template <class Bits, bool Masked>
void samples_of(const uint64_t* x, int samples, const uint64_t* w, const uint64_t* mask, int rows, int64_t lines,
                int32_t (*found)[kRows]) {
  if (samples == 4) return rows_of<Bits, 4, Masked>(x, w, mask, rows, lines, found);
  if (samples == 3) return rows_of<Bits, 3, Masked>(x, w, mask, rows, lines, found);
  if (samples == 2) return rows_of<Bits, 2, Masked>(x, w, mask, rows, lines, found);
  rows_of<Bits, 1, Masked>(x, w, mask, rows, lines, found);
}

template <class Bits>
void differ_in(const uint64_t* x, int samples, const uint64_t* w, const uint64_t* mask, int rows, int64_t lines,
               int32_t (*found)[kRows]) {
  mask ? samples_of<Bits, true>(x, samples, w, mask, rows, lines, found)
       : samples_of<Bits, false>(x, samples, w, mask, rows, lines, found);
}

}  // namespace
}  // namespace secateur::binary
