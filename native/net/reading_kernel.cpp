// The lines of activations of a sparse product in its order, with nothing done but what keeps the loads from being left
// out: no product can take less time than this, which is the roofline of docs/sparse.md.

#include "base/vec.h"
#include "net/reading_kernels.h"

namespace secateur::SECATEUR_ISA {
namespace {

template <int V>
float read_vecs(const float* x, int64_t ld, const int32_t* columns, int64_t count) {
  Vec sum[V] = {};
  for (int64_t k = 0; k < count; ++k) {
    const float* column = x + columns[k] * ld;
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) sum[i] += load(column + i * kLanes);
  }
  Vec total{};
  for (int i = 0; i < V; ++i) total += sum[i];
  return secateur::SECATEUR_ISA::sum(total);
}

template <int Tiles>
float read_tiles(const float* x, int64_t ld, const int32_t* columns, int64_t count) {
  constexpr int vecs = Tiles * kVecsPerTile, once = vecs % kMaxVecs ? Tiles * kVecsPerTile % kMaxVecs : kMaxVecs;
  float total = 0.0f;
  for (int v = 0; v < vecs; v += once) total += read_vecs<once>(x + v * kLanes, ld, columns, count);
  return total;
}

float read(const float* x, int64_t ld, const int32_t* columns, int64_t count, int tiles) {
  switch (tiles) {
    case 1: return read_tiles<1>(x, ld, columns, count);
    case 2: return read_tiles<2>(x, ld, columns, count);
    case 3: return read_tiles<3>(x, ld, columns, count);
    default: return read_tiles<4>(x, ld, columns, count);
  }
}

}  // namespace

extern const ReadingKernels reading_kernels = {read};

}  // namespace secateur::SECATEUR_ISA
