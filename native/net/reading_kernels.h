// How fast the caches deliver what a sparse product must read.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur {

struct ReadingKernels {
  // Adds up `tiles` tiles of 16 samples, at most four, of each of these columns of x, which lie `ld` floats apart.
  float (*read)(const float* x, int64_t ld, const int32_t* columns, int64_t count, int tiles);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(ReadingKernels, reading_kernels)
