// Normalisation, ReLU and addition. Compiled once per instruction set. These loops stream: what matters is how often a channel is read.

#include "kernels/plane_kernels.h"

#include "kernels/each_place.h"

namespace secateur::SECATEUR_ISA {
namespace {

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

// ------------------------------------------------------------------ in and out of long rows
// Short rows are the rule: a vector that may be read beyond the segment would cost a fault, so the rest goes one by one.
inline void copy_floats(const float* from, float* to, int32_t count) {
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i && i < count) {
    store(to + count - kLanes, load(from + count - kLanes));
    return;
  }
  for (; i < count; ++i) to[i] = from[i];
}

inline void clear(float* from, float* to) {
  for (; to - from >= kLanes; from += kLanes) store(from, Vec{});
  for (; from < to; ++from) *from = 0.0f;
}

void gather(const PlaneCopy& c, int64_t planes, const float* from, float* to) {
  for (int64_t plane = 0; plane < planes; ++plane, from += c.image, to += c.row) {
    int64_t done = c.begin;
    for (const PlaneSegment* s = c.segments; s < c.segments + c.count; ++s) {
      if (done < s->at) clear(to + done, to + s->at);
      done = s->at + s->count;
      if (c.step == 1) {
        copy_floats(from + s->place, to + s->at, s->count);
      } else {
        for (int32_t i = 0; i < s->count; ++i) to[s->at + i] = from[s->place + i * c.step];
      }
    }
    if (done < c.end) clear(to + done, to + c.end);
  }
}

void add(int64_t count, const float* x, const float* other, bool rectify, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec v = other ? load(x + i) + load(other + i) : load(x + i);
    store(y + i, rectify ? relu(v) : v);
  }
  for (; i < count; ++i) {
    const float v = other ? x[i] + other[i] : x[i];
    y[i] = rectify && v < 0.0f ? 0.0f : v;
  }
}

void scatter(const PlaneCopy& c, const int32_t* rows, int64_t count, const float* from, float* to) {
  for (const int32_t* r = rows; r < rows + count; ++r) {
    const float* row = from + *r * c.row;
    float* image = to + *r * c.image;
    for (const PlaneSegment* s = c.segments; s < c.segments + c.count; ++s) {
      if (c.adds) {
        add(s->count, row + s->at, image + s->place, c.relu, image + s->place);
      } else if (c.step == 1) {
        copy_floats(row + s->at, image + s->place, s->count);
      } else {
        for (int32_t i = 0; i < s->count; ++i) image[s->place + i * c.step] = row[s->at + i];
      }
    }
  }
}

}  // namespace

extern const PlaneKernels plane_kernels = {
    moments, total, normalise, norm_sums, norm_gradient, copy, rectified_gradient, sum_of_two, gather, scatter, add,
};

}  // namespace secateur::SECATEUR_ISA
