#include "net/sparse_chain.h"

#include <stdexcept>
#include <string>

namespace secateur {
namespace {

// Multiply-adds of one vector below which another thread costs more than it brings.
constexpr int64_t kWorkPerThread = 6000;

}  // namespace

Part::Part(const SparseKernels& kernels, Barrier& barrier, int thread, int threads, int32_t tiles)
    : kernels(kernels), barrier(barrier), thread(thread), threads(threads), tiles(tiles) {
  const Grid grid = Grid::of(threads);
  row_parts = grid.row_parts;
  row_part = thread / grid.tile_parts;
  my_tiles = share(tiles, thread % grid.tile_parts, grid.tile_parts);
}

SparseChain::SparseChain(std::vector<std::shared_ptr<const SparseLayer>> layers) : layers_(std::move(layers)) {
  if (layers_.empty()) throw std::invalid_argument("a chain needs at least one layer");
  first_row_ = {0};
  first_entry_ = {0};
  work_rows_ = layers_[0]->columns();
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (i && layers_[i]->columns() != layers_[i - 1]->rows())
      throw std::invalid_argument("layer " + std::to_string(i) + " of the chain takes " +
                                  std::to_string(layers_[i]->columns()) + " features, but the one before gives " +
                                  std::to_string(layers_[i - 1]->rows()));
    first_row_.push_back(work_rows_);
    work_rows_ += layers_[i]->rows();
    first_entry_.push_back(first_entry_.back() + layers_[i]->count() + 16);
  }
}

int64_t SparseChain::leading_dimension(int64_t samples) {
  const int64_t padded = int64_t(tiles_of(samples)) * kTileSamples;
  return padded % 64 ? padded : padded + kTileSamples;
}

int SparseChain::threads_worth(int threads, int64_t samples) const {
  const int64_t tiles = tiles_of(samples);
  return int(std::clamp<int64_t>(first_entry_.back() * tiles / kWorkPerThread, 1, std::max(threads, 1)));
}

void SparseChain::pack_input(const Part& part, const float* x, int64_t stride, int64_t samples, float* work,
                             int64_t ld) const {
  layers_[0]->pack_input(part.kernels, x, stride, samples, part.row_part, part.row_parts, part.my_tiles, work, ld);
  part.wait_for_rows();
}

void SparseChain::forward(const Part& part, const float* const* values, const float* const* biases, float* work,
                          int64_t ld) const {
  for (size_t i = 0; i < size(); ++i) {
    const bool relu = i + 1 < size();
    const float* x = work + first_row_[i] * ld;
    float* y = work + first_row_[i + 1] * ld;
    const Product product = layers_[i]->forward(values[i], x, biases[i], relu, y, ld);
    const Range rows = layers_[i]->forward_rows(part.row_part, part.row_parts);
    part.kernels.multiply(product, int32_t(rows.begin), int32_t(rows.end), int32_t(part.my_tiles.begin),
                          int32_t(part.my_tiles.end));
    part.wait_for_rows();
  }
}

void SparseChain::infer(const Part& part, const float* const* values, const float* const* biases, const float* x,
                        int64_t stride, int64_t samples, float* work, int64_t ld, float* out, int64_t out_stride) const {
  pack_input(part, x, stride, samples, work, ld);
  forward(part, values, biases, work, ld);
  if (part.row_part == 0)
    part.kernels.unpack(work + first_row_[size()] * ld, ld, layers_.back()->rows(), samples,
                        int32_t(part.my_tiles.begin), int32_t(part.my_tiles.end), out, out_stride);
}

void SparseChain::transpose_values(const Part& part, const float* const* values, size_t first,
                                   float* transposed) const {
  // A thread with one tile less than the others has time for this; if all have the same, they share it.
  const int64_t tile_parts = part.threads / part.row_parts;
  const int64_t idle_from = part.tiles % tile_parts ? part.tiles / tile_parts + 1 : part.tiles;
  int index = part.thread, parts = part.threads;
  if (part.tiles % tile_parts) {
    index = -1;
    parts = 0;
    for (int t = 0; t < part.threads; ++t) {
      const Range tiles = share(part.tiles, int(t % tile_parts), int(tile_parts));
      if (tiles.end - tiles.begin >= idle_from) continue;
      if (t == part.thread) index = parts;
      ++parts;
    }
    if (index < 0) return;
  }
  for (size_t i = first; i < size(); ++i) {
    layers_[i]->transpose_values(part.kernels, values[i], layers_[i]->transposed_entries(index, parts),
                                 transposed + first_entry_[i]);
  }
}

void SparseChain::backward(const Part& part, const float* const* values, const float* transposed, const float* work,
                           size_t first, float* gradients, int64_t ld) const {
  for (size_t i = size(); i-- > first;) {
    const float* activation = i ? work + first_row_[i] * ld : nullptr;
    const float* dy = gradients + first_row_[i + 1] * ld;
    float* dx = gradients + first_row_[i] * ld;
    const Product product = layers_[i]->backward(values[i], transposed + first_entry_[i], dy, activation, dx, ld);
    const Range rows = layers_[i]->backward_rows(part.row_part, part.row_parts);
    part.kernels.multiply(product, int32_t(rows.begin), int32_t(rows.end), int32_t(part.my_tiles.begin),
                          int32_t(part.my_tiles.end));
    part.wait_for_rows();
  }
}

}  // namespace secateur
