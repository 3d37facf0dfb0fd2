// Pooling. Compiled once per instruction set.

#include "kernels/plane_kernels.h"

#include "kernels/each_place.h"

namespace secateur::SECATEUR_ISA {
namespace {

typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));
typedef uint8_t LooseByteVec __attribute__((vector_size(kLanes), aligned(1), may_alias));

struct Window {
  int32_t y0, y1, x0, x1;  // of the kernel: the part that lies on the image
};

inline Window window(const Pool& p, int32_t row, int32_t column) {
  const int32_t y = row * p.stride_y - p.pad_y, x = column * p.stride_x - p.pad_x;
  return {y < 0 ? -y : 0, p.height - y < p.kernel_y ? p.height - y : p.kernel_y, x < 0 ? -x : 0,
          p.width - x < p.kernel_x ? p.width - x : p.kernel_x};
}

// `Two`: all windows are 2×2 and lie on the image, so that the loops over one unroll.
template <bool Two>
inline Window window_as(const Pool& p, int32_t row, int32_t column) {
  return Two ? Window{0, 2, 0, 2} : window(p, row, column);
}

bool two_by_two(const Pool& p) { return p.kernel_y == 2 && p.kernel_x == 2 && p.pad_y == 0 && p.pad_x == 0; }

template <bool Two>
void max_pool_as(const Extent& e, const Pool& p, const Plane& x, const Plane& y, uint8_t* winners) {
  const int32_t across = Two ? 2 : p.kernel_x;
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      for (int32_t column = 0; column < e.width; ++column) {
        const Window w = window_as<Two>(p, row, column);
        const float* corner = x.at + t * x.tile + (int64_t(row) * p.stride_y - p.pad_y) * x.row +
                              (int64_t(column) * p.stride_x - p.pad_x) * x.step;
        float* out = y.at + t * y.tile + row * y.row + column * y.step;
        for (int lane = 0; lane < kTile; lane += kLanes, winners += kLanes) {
          Vec best = load(corner + w.y0 * x.row + w.x0 * x.step + lane);
          IntVec place = IntVec{} + (w.y0 * across + w.x0);
#pragma GCC unroll 2
          for (int32_t i = w.y0; i < w.y1; ++i) {
#pragma GCC unroll 2
            for (int32_t j = w.x0; j < w.x1; ++j) {
              const Vec v = load(corner + i * x.row + j * x.step + lane);
              const IntVec better = ~(v <= best) & (best == best);  // the first of equals wins, and NaN
              best = better ? v : best;
              place = better ? IntVec{} + (i * across + j) : place;
            }
          }
          store(out + lane, best);
          *reinterpret_cast<LooseByteVec*>(winners) = __builtin_convertvector(place, ByteVec);
        }
      }
    }
  }
}

void max_pool(const Extent& e, const Pool& p, const Plane& x, const Plane& y, uint8_t* winners) {
  two_by_two(p) ? max_pool_as<true>(e, p, x, y, winners) : max_pool_as<false>(e, p, x, y, winners);
}

void clear(const Extent& e, const Pool& p, const Plane& x) {
  const Extent inputs{e.tiles, p.height, p.width, e.last};
  each(inputs, x, x, [&](int64_t a, int64_t, int32_t, int) { store(x.at + a, Vec{}); });
}

// `Tiled`: windows lie side by side and cover the image, so that each input is written once.
template <bool Two, bool Tiled>
void max_pool_gradient_as(const Extent& e, const Pool& p, const uint8_t* winners, const Plane& dy, const Plane& dx) {
  const int32_t across = Two ? 2 : p.kernel_x;
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      for (int32_t column = 0; column < e.width; ++column) {
        const Window w = window_as<Two>(p, row, column);
        const float* d = dy.at + t * dy.tile + row * dy.row + column * dy.step;
        float* corner = dx.at + t * dx.tile + (int64_t(row) * p.stride_y - p.pad_y) * dx.row +
                        (int64_t(column) * p.stride_x - p.pad_x) * dx.step;
        for (int lane = 0; lane < kTile; lane += kLanes, winners += kLanes) {
          const Vec g = load(d + lane);
          const IntVec place = __builtin_convertvector(*reinterpret_cast<const LooseByteVec*>(winners), IntVec);
#pragma GCC unroll 2
          for (int32_t i = w.y0; i < w.y1; ++i) {
#pragma GCC unroll 2
            for (int32_t j = w.x0; j < w.x1; ++j) {
              float* out = corner + i * dx.row + j * dx.step + lane;
              const Vec part = place == i * across + j ? g : Vec{};
              store(out, Tiled ? part : part + load(out));
            }
          }
        }
      }
    }
  }
}

void max_pool_gradient(const Extent& e, const Pool& p, const uint8_t* winners, const Plane& dy, const Plane& dx,
                       bool add) {
  const bool tiled = !add && p.stride_y == p.kernel_y && p.stride_x == p.kernel_x && p.pad_y == 0 && p.pad_x == 0 &&
                     p.height % p.kernel_y == 0 && p.width % p.kernel_x == 0;
  if (!add && !tiled) clear(e, p, dx);
  if (two_by_two(p)) {
    tiled ? max_pool_gradient_as<true, true>(e, p, winners, dy, dx)
          : max_pool_gradient_as<true, false>(e, p, winners, dy, dx);
  } else {
    tiled ? max_pool_gradient_as<false, true>(e, p, winners, dy, dx)
          : max_pool_gradient_as<false, false>(e, p, winners, dy, dx);
  }
}

inline float weight_of(const Pool& p, const Window& w) {
  return 1.0f / float(p.counts_padding ? p.kernel_y * p.kernel_x : (w.y1 - w.y0) * (w.x1 - w.x0));
}

void average_pool(const Extent& e, const Pool& p, const Plane& x, const Plane& y) {
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      for (int32_t column = 0; column < e.width; ++column) {
        const Window w = window(p, row, column);
        const float* corner = x.at + t * x.tile + (int64_t(row) * p.stride_y - p.pad_y) * x.row +
                              (int64_t(column) * p.stride_x - p.pad_x) * x.step;
        float* out = y.at + t * y.tile + row * y.row + column * y.step;
        for (int lane = 0; lane < kTile; lane += kLanes) {
          Vec sum{};
          for (int32_t i = w.y0; i < w.y1; ++i) {
            for (int32_t j = w.x0; j < w.x1; ++j) sum += load(corner + i * x.row + j * x.step + lane);
          }
          store(out + lane, sum * weight_of(p, w));
        }
      }
    }
  }
}

void average_pool_gradient(const Extent& e, const Pool& p, const Plane& dy, const Plane& dx, bool add) {
  if (!add) clear(e, p, dx);
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      for (int32_t column = 0; column < e.width; ++column) {
        const Window w = window(p, row, column);
        const float* d = dy.at + t * dy.tile + row * dy.row + column * dy.step;
        float* corner = dx.at + t * dx.tile + (int64_t(row) * p.stride_y - p.pad_y) * dx.row +
                        (int64_t(column) * p.stride_x - p.pad_x) * dx.step;
        for (int lane = 0; lane < kTile; lane += kLanes) {
          const Vec g = load(d + lane) * weight_of(p, w);
          for (int32_t i = w.y0; i < w.y1; ++i) {
            for (int32_t j = w.x0; j < w.x1; ++j) {
              float* out = corner + i * dx.row + j * dx.step + lane;
              store(out, g + load(out));
            }
          }
        }
      }
    }
  }
}

// ------------------------------------------------------------------ one image, as torch has it
// The rows of a window first, for all columns: vectors run along them.
template <bool Maximum>
void pool_rows_as(const Pool& p, const float* x, int32_t height, int32_t width, float* y) {
  float of_rows[kWidestPool + kLanes];
  for (int32_t row = 0; row < height; ++row) {
    const int32_t top = row * p.stride_y - p.pad_y, y0 = top < 0 ? 0 : top;
    const int32_t y1 = top + p.kernel_y < p.height ? top + p.kernel_y : p.height;
    for (int32_t i = y0; i < y1; ++i) {
      const float* from = x + int64_t(i) * p.width;
      int32_t j = 0;
      for (; j + kLanes <= p.width; j += kLanes) {
        const Vec v = load(from + j), best = load(of_rows + j);
        const IntVec better = ~(v <= best) & (best == best);
        store(of_rows + j, i == y0 ? v : Maximum ? (better ? v : best) : best + v);
      }
      for (; j < p.width; ++j) {
        const float v = from[j], best = of_rows[j];
        of_rows[j] = i == y0 ? v : Maximum ? (best >= v || best != best ? best : v) : best + v;
      }
    }
    for (int32_t column = 0; column < width; ++column) {
      const int32_t left = column * p.stride_x - p.pad_x, x0 = left < 0 ? 0 : left;
      const int32_t x1 = left + p.kernel_x < p.width ? left + p.kernel_x : p.width;
      float found = of_rows[x0];
      for (int32_t j = x0 + 1; j < x1; ++j) {
        const float v = of_rows[j];
        found = Maximum ? (found >= v || found != found ? found : v) : found + v;
      }
      const int32_t places = p.counts_padding ? p.kernel_y * p.kernel_x : (y1 - y0) * (x1 - x0);
      y[int64_t(row) * width + column] = Maximum ? found : found / float(places);
    }
  }
}

void pool_rows(const Pool& p, bool maximum, const float* x, int32_t height, int32_t width, float* y) {
  maximum ? pool_rows_as<true>(p, x, height, width, y) : pool_rows_as<false>(p, x, height, width, y);
}

}  // namespace

extern const PoolKernels pool_kernels = {max_pool,     max_pool_gradient,     average_pool,
                                         average_pool_gradient, pool_rows};

}  // namespace secateur::SECATEUR_ISA
