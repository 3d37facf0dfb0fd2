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

// `count` neighbouring positions of a long row (layers/plane_layout.h), from `at` on, and where the first of them is in
// the images in memory.
struct PlaneSegment {
  int64_t at, place;
  int32_t count;
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
  // to[at + i] = from[place + i · step] for i < count, segment by segment, and the way back.
  void (*gather)(const PlaneSegment*, int64_t segments, int64_t step, const float* from, float* to);
  void (*scatter)(const PlaneSegment*, int64_t segments, int64_t step, const float* from, float* to);
};

// ------------------------------------------------------------------ pooling
struct Pool {
  int32_t height, width;  // of the input
  int32_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
  bool counts_padding;  // of averages
};

struct PoolKernels {
  // The extent is that of y; `winners` has one byte per output and sample: the place in the window.
  void (*max_pool)(const Extent&, const Pool&, const Plane& x, const Plane& y, uint8_t* winners);
  void (*max_pool_gradient)(const Extent&, const Pool&, const uint8_t* winners, const Plane& dy, const Plane& dx,
                            bool add);
  void (*average_pool)(const Extent&, const Pool&, const Plane& x, const Plane& y);
  void (*average_pool_gradient)(const Extent&, const Pool&, const Plane& dy, const Plane& dx, bool add);
};

}  // namespace secateur

SECATEUR_DECLARE_TABLE(PlaneKernels, plane_kernels)
SECATEUR_DECLARE_TABLE(PoolKernels, pool_kernels)
