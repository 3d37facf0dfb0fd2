// A loop over every position of a channel and every vector of samples. Include it only from kernel files.

#pragma once

#include "base/vec.h"
#include "kernels/plane_kernels.h"

namespace secateur::SECATEUR_ISA {
namespace {

// Calls body(offset of x, offset of y, tile, first lane) for every position and every vector of samples in it.
template <class Body>
inline __attribute__((always_inline)) void each(const Extent& e, const Plane& x, const Plane& y, Body body) {
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      int64_t a = t * x.tile + row * x.row, b = t * y.tile + row * y.row;
      for (int32_t i = 0; i < e.width; ++i, a += x.step, b += y.step) {
#pragma GCC unroll 4
        for (int lane = 0; lane < kTile; lane += kLanes) body(a + lane, b + lane, t, lane);
      }
    }
  }
}

}  // namespace
}  // namespace secateur::SECATEUR_ISA
