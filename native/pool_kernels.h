// The inner loops of pooling, one table per instruction set. Each function works on one channel (plane_kernels.h).

#pragma once

#include "plane_kernels.h"

namespace secateur {

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

SECATEUR_DECLARE_TABLE(PoolKernels, pool_kernels)
