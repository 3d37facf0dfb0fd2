// AMX: tdpbf16ps multiplies tiles of 16 × 32 and 32 × 16. Everything but the product is as with vdpbf16ps.

#include "base/tiles.h"
#include "half/kernels.h"

namespace secateur::half {
namespace {

using tiles::kRowBytes;

constexpr int kSumBytes = kSide * 4;        // from one row of sums to the next
constexpr int kHalf = kBlock / 2;

// Tiles 0..3 are the sums [half of the rows][half of the columns], 4 and 5 the halves of a left block, 6 and 7 those of
// a right one: each that is loaded is used twice, as many as eight tiles allow.
template <bool Rows, bool Columns>  // whether the second halves are needed
void multiply_tiles(const uint16_t* left, const int32_t* lefts, const uint16_t* right, const int32_t* rights, int count,
                    bool add, float* sums) {
  if (add) {
    _tile_loadd(0, sums, kSumBytes);
    if (Columns) _tile_loadd(1, sums + 16, kSumBytes);
    if (Rows) _tile_loadd(2, sums + kHalf, kSumBytes);
    if (Rows && Columns) _tile_loadd(3, sums + kHalf + 16, kSumBytes);
  } else {
    _tile_zero(0);
    if (Columns) _tile_zero(1);
    if (Rows) _tile_zero(2);
    if (Rows && Columns) _tile_zero(3);
  }
  for (int n = 0; n < count; ++n) {
    const uint16_t* a = left + int64_t(lefts[n]) * kBlock;
    const uint16_t* b = right + int64_t(rights[n]) * kBlock;
    _tile_loadd(6, b, kRowBytes);
    _tile_loadd(4, a, kRowBytes);
    if (Columns) _tile_loadd(7, b + kHalf, kRowBytes);
    if (Rows) _tile_loadd(5, a + kHalf, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if (Columns) _tile_dpbf16ps(1, 4, 7);
    if (Rows) _tile_dpbf16ps(2, 5, 6);
    if (Rows && Columns) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kSumBytes);
  if (Columns) _tile_stored(1, sums + 16, kSumBytes);
  if (Rows) _tile_stored(2, sums + kHalf, kSumBytes);
  if (Rows && Columns) _tile_stored(3, sums + kHalf + 16, kSumBytes);
}

void multiply(const void* left, const int32_t* lefts, const void* right, const int32_t* rights, int count, int rows,
              int columns, bool add, float* sums) {
  const auto way = rows > 16 ? (columns > 16 ? multiply_tiles<true, true> : multiply_tiles<true, false>)
                             : (columns > 16 ? multiply_tiles<false, true> : multiply_tiles<false, false>);
  way(static_cast<const uint16_t*>(left), lefts, static_cast<const uint16_t*>(right), rights, count, add, sums);
}

}  // namespace

Kernels with_tiles(Kernels base) {
  Kernels set = base;
  set.enter = tiles::enter, set.leave = tiles::leave;
  set.multiply = multiply;
  return set;
}

}  // namespace secateur::half
