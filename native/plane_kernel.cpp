// Compiled once per instruction set. These loops stream: what matters is how often a channel is read.

#include "plane_kernels.h"

#include "vec.h"

namespace secateur::SECATEUR_ISA {
namespace {

typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));
typedef uint8_t LooseByteVec __attribute__((vector_size(kLanes), aligned(1), may_alias));

// Calls body(offset of x, offset of y, tile) for every position and every vector of samples in it.
template <class Body>
inline __attribute__((always_inline)) void each(const Extent& e, const Plane& x, const Plane& y, Body body) {
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      int64_t a = t * x.tile + row * x.row, b = t * y.tile + row * y.row;
      for (int32_t i = 0; i < e.width; ++i, a += x.step, b += y.step) {
#pragma GCC unroll 4
        for (int lane = 0; lane < kTile; lane += kLanes) body(a + lane, b + lane, t, lane);
      }
    }
  }
}

// Zero in the lanes beyond the last sample.
inline Vec only_samples(const Extent& e, int32_t tile, int lane, Vec v) {
  if (tile + 1 < e.tiles || e.last - lane >= kLanes) return v;
  for (int i = 0; i < kLanes; ++i) v[i] = lane + i < e.last ? v[i] : 0.0f;
  return v;
}

// ------------------------------------------------------------------ normalisation
double reduced(const Vec* sums) {
  double total = 0.0;
  for (int j = 0; j < kVecsPerTile; ++j) {
    for (int i = 0; i < kLanes; ++i) total += double(sums[j][i]);
  }
  return total;
}

double total(const Extent& e, const Plane& x) {
  double found = 0.0;
  for (int32_t t = 0; t < e.tiles; ++t) {
    Vec sums[kVecsPerTile] = {};
    const Extent one{1, e.height, e.width, t + 1 < e.tiles ? kTile : e.last};
    const Plane plane{x.at + t * x.tile, 0, x.row, x.step};
    each(one, plane, plane, [&](int64_t a, int64_t, int32_t, int lane) { sums[lane / kLanes] += load(plane.at + a); });
    for (int lane = 0; lane < kTile; lane += kLanes)
      sums[lane / kLanes] = only_samples(one, 0, lane, sums[lane / kLanes]);
    found += reduced(sums);
  }
  return found;
}

void moments(const Extent& e, const Plane& x, double* mean, double* variance) {
  const double count = double(e.height) * e.width * ((e.tiles - 1) * kTile + e.last);
  *mean = total(e, x) / count;
  const float middle = float(*mean);
  double squares = 0.0;
  for (int32_t t = 0; t < e.tiles; ++t) {
    Vec sums[kVecsPerTile] = {};
    const Extent one{1, e.height, e.width, t + 1 < e.tiles ? kTile : e.last};
    const Plane plane{x.at + t * x.tile, 0, x.row, x.step};
    each(one, plane, plane, [&](int64_t a, int64_t, int32_t, int lane) {
      const Vec d = load(plane.at + a) - middle;
      sums[lane / kLanes] += d * d;
    });
    for (int lane = 0; lane < kTile; lane += kLanes)
      sums[lane / kLanes] = only_samples(one, 0, lane, sums[lane / kLanes]);
    squares += reduced(sums);
  }
  const double shift = double(middle) - *mean;
  const double found = squares / count - shift * shift;
  *variance = found < 0.0 ? 0.0 : found;
}

template <bool Relu>
void normalise_as(const Extent& e, const Norm& norm, const Plane& x, const Plane& y) {
  const float scale = norm.scale, shift = norm.shift;
  each(e, x, y, [&](int64_t a, int64_t b, int32_t, int) {
    const Vec z = load(x.at + a) * scale + shift;
    store(y.at + b, Relu ? relu(z) : z);
  });
}

void normalise(const Extent& e, const Norm& norm, const Plane& x, const Plane& y) {
  norm.relu ? normalise_as<true>(e, norm, x, y) : normalise_as<false>(e, norm, x, y);
}

template <bool Relu>
inline Vec before_relu(const Norm& norm, Vec x, Vec dy) {
  return Relu ? relu_gradient(x * norm.scale + norm.shift, dy) : dy;
}

template <bool Relu>
void norm_sums_as(const Extent& e, const Norm& norm, const Plane& x, const Plane& dy, double* sum, double* product) {
  *sum = *product = 0.0;
  const float mean = norm.mean;
  for (int32_t t = 0; t < e.tiles; ++t) {
    Vec sums[kVecsPerTile] = {}, products[kVecsPerTile] = {};
    const Extent one{1, e.height, e.width, kTile};
    const Plane px{x.at + t * x.tile, 0, x.row, x.step}, pd{dy.at + t * dy.tile, 0, dy.row, dy.step};
    each(one, px, pd, [&](int64_t a, int64_t b, int32_t, int lane) {
      const Vec v = load(px.at + a);
      const Vec dz = before_relu<Relu>(norm, v, load(pd.at + b));
      sums[lane / kLanes] += dz;
      products[lane / kLanes] += dz * (v - mean);
    });
    *sum += reduced(sums);
    *product += reduced(products);
  }
}

void norm_sums(const Extent& e, const Norm& norm, const Plane& x, const Plane& dy, double* sum, double* product) {
  norm.relu ? norm_sums_as<true>(e, norm, x, dy, sum, product) : norm_sums_as<false>(e, norm, x, dy, sum, product);
}

template <bool Relu, bool Add>
void norm_gradient_as(const Extent& e, const Norm& norm, const NormGradient& g, const Plane& x, const Plane& dy,
                      const Plane& dx) {
  const float mean = norm.mean, rate = g.rate, slope = g.slope, constant = g.constant;
  for (int32_t t = 0; t < e.tiles; ++t) {
    const bool whole = t + 1 < e.tiles || e.last == kTile;
    for (int32_t row = 0; row < e.height; ++row) {
      const float* px = x.at + t * x.tile + row * x.row;
      const float* pd = dy.at + t * dy.tile + row * dy.row;
      float* out = dx.at + t * dx.tile + row * dx.row;
      for (int32_t i = 0; i < e.width; ++i, px += x.step, pd += dy.step, out += dx.step) {
#pragma GCC unroll 4
        for (int lane = 0; lane < kTile; lane += kLanes) {
          const Vec v = load(px + lane);
          Vec d = before_relu<Relu>(norm, v, load(pd + lane)) * rate + ((v - mean) * slope + constant);
          if (!whole) d = only_samples(e, t, lane, d);
          store(out + lane, Add ? d + load(out + lane) : d);
        }
      }
    }
  }
}

void norm_gradient(const Extent& e, const Norm& norm, const NormGradient& g, const Plane& x, const Plane& dy,
                   const Plane& dx, bool add) {
  if (norm.relu) {
    add ? norm_gradient_as<true, true>(e, norm, g, x, dy, dx) : norm_gradient_as<true, false>(e, norm, g, x, dy, dx);
  } else {
    add ? norm_gradient_as<false, true>(e, norm, g, x, dy, dx)
        : norm_gradient_as<false, false>(e, norm, g, x, dy, dx);
  }
}

// ------------------------------------------------------------------ element by element
void copy(const Extent& e, const Plane& x, const Plane& y, bool rectify, bool add) {
  each(e, x, y, [&](int64_t a, int64_t b, int32_t, int) {
    Vec v = load(x.at + a);
    if (rectify) v = relu(v);
    store(y.at + b, add ? v + load(y.at + b) : v);
  });
}

void rectified_gradient(const Extent& e, const Plane& activation, const Plane& dy, const Plane& dx, bool add) {
  for (int32_t t = 0; t < e.tiles; ++t) {
    for (int32_t row = 0; row < e.height; ++row) {
      const float* a = activation.at + t * activation.tile + row * activation.row;
      const float* d = dy.at + t * dy.tile + row * dy.row;
      float* out = dx.at + t * dx.tile + row * dx.row;
      for (int32_t i = 0; i < e.width; ++i, a += activation.step, d += dy.step, out += dx.step) {
#pragma GCC unroll 4
        for (int lane = 0; lane < kTile; lane += kLanes) {
          const Vec g = relu_gradient(load(a + lane), load(d + lane));
          store(out + lane, add ? g + load(out + lane) : g);
        }
      }
    }
  }
}

void sum_of_two(const Extent& e, const Plane& a, const Plane& b, const Plane& y, bool rectify) {
  copy(e, a, y, false, false);
  each(e, b, y, [&](int64_t at, int64_t to, int32_t, int) {
    const Vec v = load(y.at + to) + load(b.at + at);
    store(y.at + to, rectify ? relu(v) : v);
  });
}

// ------------------------------------------------------------------ pooling
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

}  // namespace

extern const PlaneKernels plane_kernels = {
    moments,  total,      normalise, norm_sums,         norm_gradient, copy,
    rectified_gradient, sum_of_two, max_pool, max_pool_gradient, average_pool,  average_pool_gradient,
};

}  // namespace secateur::SECATEUR_ISA
