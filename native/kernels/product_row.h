// The end of a row of a product, sparse or dense, and how wide a pass over it is. Include it only from kernel files.

#pragma once

#include <cstdint>

#include "base/vec.h"

namespace secateur::SECATEUR_ISA {
namespace {

template <int V, class AnyProduct>
inline void finish_row(const AnyProduct& p, int32_t row, int64_t offset, Vec* sum) {
  const int64_t at = row * p.ldy + offset;
  if (p.relu) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) sum[i] = relu(sum[i]);
  }
  if (p.activation) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) sum[i] = relu_gradient(load(p.activation + at + i * kLanes), sum[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < V; ++i) store(p.y + at + i * kLanes, sum[i]);
}

// The widest pass ≤ `limit` that cuts `count` into even parts.
inline int even_pass(int count, int limit) {
  const int passes = (count + limit - 1) / limit;
  return (count + passes - 1) / passes;
}

}  // namespace
}  // namespace secateur::SECATEUR_ISA
