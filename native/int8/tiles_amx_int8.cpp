// AMX-INT8: tdpbsud multiplies tiles of 16 × 64 signed bytes and 64 × 16 unsigned ones. All else is as with VNNI.

#include "base/tiles.h"
#include "int8/kernels.h"

namespace secateur::int8 {
namespace {

using tiles::kRowBytes;

constexpr int kSumBytes = kRows * 4;  // from one row of sums to the next
constexpr int kHalf = kBlock / 2;     // bytes of half a block
constexpr int kLower = 16 * kRows;    // sums of the first sixteen rows

// Tiles 0..3 are the sums [half of the rows][half of the samples], as for pairs (half/tiles_amx.cpp).
template <bool Rows, bool Columns>  // whether the second halves are needed
void multiply_tiles(const int8_t* left, const uint8_t* right, const int32_t* rights, int count, bool add, int32_t* sums) {
  if (add) {
    _tile_loadd(0, sums, kSumBytes);
    if (Columns) _tile_loadd(1, sums + 16, kSumBytes);
    if (Rows) _tile_loadd(2, sums + kLower, kSumBytes);
    if (Rows && Columns) _tile_loadd(3, sums + kLower + 16, kSumBytes);
  } else {
    _tile_zero(0);
    if (Columns) _tile_zero(1);
    if (Rows) _tile_zero(2);
    if (Rows && Columns) _tile_zero(3);
  }
  for (int n = 0; n < count; ++n) {
    const int8_t* a = left + int64_t(n) * kBlock;
    const uint8_t* b = right + int64_t(rights[n]) * kBlock;
    _tile_loadd(6, b, kRowBytes);
    _tile_loadd(4, a, kRowBytes);
    if (Columns) _tile_loadd(7, b + kHalf, kRowBytes);
    if (Rows) _tile_loadd(5, a + kHalf, kRowBytes);
    _tile_dpbsud(0, 4, 6);
    if (Columns) _tile_dpbsud(1, 4, 7);
    if (Rows) _tile_dpbsud(2, 5, 6);
    if (Rows && Columns) _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums, kSumBytes);
  if (Columns) _tile_stored(1, sums + 16, kSumBytes);
  if (Rows) _tile_stored(2, sums + kLower, kSumBytes);
  if (Rows && Columns) _tile_stored(3, sums + kLower + 16, kSumBytes);
}

void multiply(const int8_t* left, const uint8_t* right, const int32_t* rights, int count, int rows, int columns,
              bool add, int32_t* sums) {
  const auto way = rows > 16 ? (columns > 16 ? multiply_tiles<true, true> : multiply_tiles<true, false>)
                             : (columns > 16 ? multiply_tiles<false, true> : multiply_tiles<false, false>);
  way(left, right, rights, count, add, sums);
}

}  // namespace

Kernels with_tiles(Kernels base) {
  Kernels set = base;
  set.enter = tiles::enter, set.leave = tiles::leave;
  set.multiply = multiply;
  return set;
}

}  // namespace secateur::int8
