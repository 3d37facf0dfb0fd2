// The eight tiles of AMX, all full: 16 rows of 64 bytes each. For files that are compiled with its flags.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace secateur::tiles {

struct alignas(64) Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes_per_row[16];
  uint8_t rows[16];
};

// Static: GCC's _tile_loadconfig claims to read eight bytes only, so stores into a local one would be dropped.
static const Config kEightFull = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static inline void enter() { _tile_loadconfig(&kEightFull); }

static inline void leave() { _tile_release(); }  // else every context switch saves 8 KiB

constexpr int kRowBytes = 64;  // of a tile

}  // namespace secateur::tiles
