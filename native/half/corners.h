// Parts of the matrices outside, and memory for blocks made of them.

#pragma once

#include "base/room.h"
#include "half/products.h"

namespace secateur::half {

// A thread's memory for one use; a slot of floats serves any kind of blocks.
inline char* room(Scratch slot, int64_t bytes) { return reinterpret_cast<char*>(scratch(slot, (bytes + 3) / 4)); }

inline Corner corner(const Matrix& m, int64_t row, int64_t column, int rows, int columns) {
  const int64_t offset = (row * m.stride + column) * (m.bf16 ? 2 : 4);
  return {static_cast<const char*>(m.at) + offset, m.stride, rows, columns, m.bf16};
}

inline Target target(const Matrix& m, int64_t row, int64_t column, int rows, int columns) {
  const int64_t offset = (row * m.stride + column) * (m.bf16 ? 2 : 4);
  return {static_cast<char*>(m.at) + offset, m.stride, rows, columns, m.bf16};
}

}  // namespace secateur::half
