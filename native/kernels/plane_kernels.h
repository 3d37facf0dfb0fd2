// The inner loops between convolutions: normalisation, ReLU, addition, pooling; one table per instruction set.
//
// Each function works on one channel of an activation or a gradient, over all tiles of 16 samples. Lanes beyond the
// last sample hold anything finite in activations, and zero in gradients.

#pragma once

#include <cstdint>

#include "base/isa.h"

namespace secateur {

// One channel: the position (0, 0) of tile 0, and strides in floats.
struct Plane {
  float* at;
  int64_t tile, row, step;
};

struct Extent {
  int32_t tiles, height, width;
  int32_t last;  // samples in the last tile
};

// z = x · scale + shift, then max(z, 0) if `relu`.
struct Norm {
  float scale, shift, mean;
  bool relu;
};

// dx = rate · dz + slope · (x − mean) + constant, where dz is dy, or zero where a ReLU was not positive.
struct NormGradient {
  float rate, slope, constant;
};

// `count` neighbouring positions of a long row (planes/plane_layout.h), from `at` on, and where the first of them is in
// the images in memory.
struct PlaneSegment {
  int64_t at, place;
  int32_t count;
};

// How images go into long rows and out of them, segment by segment: row[at + i] is image[place + i · step]. Rows are
// `row` floats apart, images `image`.
//
// `gather` does it for so many planes, and writes zeros between the segments in the positions [begin, end). `scatter`
// does the way back for the rows named, row r of `from` to image r of `to`; with a step of 1 it may add (`adds`) to what
// is there and rectify (`relu`).
struct PlaneCopy {
  const PlaneSegment* segments;
  int64_t count, step, row, image;
  int64_t begin = 0, end = 0;
  bool adds = false, relu = false;
};

struct PlaneKernels {
  void (*moments)(const Extent&, const Plane& x, double* mean, double* variance);
  double (*total)(const Extent&, const Plane& x);
  void (*normalise)(const Extent&, const Norm&, const Plane& x, const Plane& y);
  // Σ dz and Σ dz · (x − mean).
  void (*norm_sums)(const Extent&, const Norm&, const Plane& x, const Plane& dy, double* sum, double* product);
  void (*norm_gradient)(const Extent&, const Norm&, const NormGradient&, const Plane& x, const Plane& dy,
                        const Plane& dx, bool add);
  void (*copy)(const Extent&, const Plane& x, const Plane& y, bool relu, bool add);
  void (*relu_gradient)(const Extent&, const Plane& activation, const Plane& dy, const Plane& dx, bool add);
  void (*sum_of_two)(const Extent&, const Plane& a, const Plane& b, const Plane& y, bool relu);
  void (*gather)(const PlaneCopy&, int64_t planes, const float* from, float* to);
  void (*scatter)(const PlaneCopy&, const int32_t* rows, int64_t count, const float* from, float* to);
  // y = x + other, or x where `other` is null; then max(y, 0) if `relu`. Plain arrays.
  void (*add)(int64_t count, const float* x, const float* other, bool relu, float* y);
};

// ------------------------------------------------------------------ pooling
struct Pool {
  int32_t height, width;  // of the input
  int32_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
  bool counts_padding;  // of averages
};

constexpr int32_t kWidestPool = 2048;  // image of `pool_rows`

struct PoolKernels {
  // The extent is that of y; `winners` has one byte per output and sample: the place in the window.
  void (*max_pool)(const Extent&, const Pool&, const Plane& x, const Plane& y, uint8_t* winners);
  void (*max_pool_gradient)(const Extent&, const Pool&, const uint8_t* winners, const Plane& dy, const Plane& dx,
                            bool add);
  void (*average_pool)(const Extent&, const Pool&, const Plane& x, const Plane& y);
  void (*average_pool_gradient)(const Extent&, const Pool&, const Plane& dy, const Plane& dx, bool add);
  // One image of one channel as torch has it, the largest or the averages of its windows: y[height, width].
  // The image is at most kWidestPool wide.
  void (*pool_rows)(const Pool&, bool maximum, const float* x, int32_t height, int32_t width, float* y);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(PlaneKernels, plane_kernels)
SECATEUR_DECLARE_TABLE(PoolKernels, pool_kernels)
