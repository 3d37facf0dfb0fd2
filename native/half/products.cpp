// One task is a few tiles of 32 samples × a few panels of 32 outputs or inputs. It walks the contraction in steps of a
// few blocks: a panel's weights of one step (16 KiB) are expanded into the first-level cache and meet every tile of the
// task, whose blocks of that step (128 KiB) stay in the second-level cache for all its panels, as do the sums (512 KiB).
// A weight is expanded once per 256 samples, and no batch is too large for the caches.

#include "half/products.h"

#include <numeric>

#include "base/caches.h"
#include "base/room.h"
#include "half/corners.h"
#include "half/sets.h"
#include "half/tasks.h"

namespace secateur::half {
namespace {

constexpr int64_t kStepBytes = 16 << 10;  // of expanded weights: with more, the samples push them out of 32 KiB
constexpr int kMostStep = 8;
constexpr int64_t kMostRows = 8, kMostColumns = 16;
constexpr int64_t kSums = kMostRows * kMostColumns;  // blocks of sums

// Blocks of one task's result: sums that take a quarter of a second-level cache of 2 MiB, half of a smaller one. Few
// rows and many columns spare that cache most.
Tasks::Size task_size() {
  const int64_t fitting = second_level_bytes() / 2 / (kMostRows * kBlock * 4);
  return {kMostRows, std::clamp<int64_t>(fitting, 4, kMostColumns)};
}

constexpr int32_t kInOrder[kMostStep] = {0, 1, 2, 3, 4, 5, 6, 7};

// What the two products with weights share: forward, result turned = W · fromᵀ; else result = from · W.
struct WeightProduct {
  const Kernels& kernels;
  const HalfLayer& layer;
  const Packed packed;
  const bool is_forward;
  const Matrix& from;
  const float* const bias;
  const Matrix& result;

  int64_t steps() const { return is_forward ? layer.column_blocks() : layer.row_blocks(); }
  int64_t panels() const { return is_forward ? layer.row_blocks() : layer.column_blocks(); }
  int64_t tiles() const { return blocks_of(from.samples); }
  int64_t bytes() const { return kernels.block_bytes; }
  int step() const { return int(std::min<int64_t>(kMostStep, kStepBytes / bytes())); }

  void pack(int64_t tile, int64_t step, char* samples) const {
    void* to = samples + (tile * steps() + step) * bytes();
    const int64_t row = tile * kSide;
    const int rows = within(from.samples, tile);
    if (is_forward)
      kernels.right_turned(corner(from, row, layer.column_begin(step), rows, layer.column_width(step)), to);
    else
      kernels.left(corner(from, row, step * kSide, rows, layer.row_width(step)), to);
  }

  // The blocks of one panel in [begin, end) that are not empty; which: their numbers.
  int expand(int64_t panel, int64_t begin, int64_t end, char* weights, int32_t* which) const {
    int count = 0;
    for (int64_t step = begin; step < end; ++step) {
      const int64_t block = is_forward ? layer.block(panel, step) : layer.block(step, panel);
      if (layer.empty(block)) continue;
      const auto way = is_forward ? kernels.weights_left : kernels.weights_right;
      way(layer.masks(block), packed + *layer.first(block), weights + count * bytes());
      which[count++] = int32_t(step);
    }
    return count;
  }

  void multiply(int64_t tile, int64_t panel, const char* samples, const char* weights, const int32_t* which, int count,
                bool add, float* sums) const {
    const char* own = samples + tile * steps() * bytes();
    const int rows = within(from.samples, tile);
    if (is_forward)
      kernels.multiply(weights, kInOrder, own, which, count, layer.row_width(panel), rows, add, sums);
    else
      kernels.multiply(own, which, weights, kInOrder, count, rows, layer.column_width(panel), add, sums);
  }

  void write(int64_t tile, int64_t panel, const float* sums) const {
    const int64_t row = tile * kSide;
    const int rows = within(from.samples, tile);
    if (is_forward)
      kernels.write_turned(sums, bias ? bias + panel * kSide : nullptr,
                           target(result, row, panel * kSide, rows, layer.row_width(panel)));
    else
      kernels.write(sums, target(result, row, layer.column_begin(panel), rows, layer.column_width(panel)));
  }

  void task(Range tiles, Range panels, const char* samples) const {
    char* weights = room(Scratch::places, kStepBytes);
    float* sums = scratch(Scratch::numbers, kSums * kBlock);
    int32_t which[kMostStep];
    const int64_t width = panels.end - panels.begin;
    for (int64_t begin = 0; begin < steps(); begin += step()) {
      const int64_t end = std::min<int64_t>(begin + step(), steps());
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int count = expand(panel, begin, end, weights, which);
        for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
          float* sum = sums + ((tile - tiles.begin) * width + panel - panels.begin) * kBlock;
          if (count || begin == 0) multiply(tile, panel, samples, weights, which, count, begin > 0, sum);
          if (end == steps()) write(tile, panel, sum);
        }
      }
    }
  }

  void run(int threads) const {
    char* samples = room(Scratch::activations, tiles() * steps() * bytes());
    threads = threads_worth(threads, tiles() * layer.blocks());
    const Tasks tasks(tiles(), panels(), task_size(), threads);
    Queue packs(tiles()), products(tasks.count());
    Barrier barrier;
    run_team(threads, [&](int, int team) {
      kernels.enter();
      packs.work([&](int64_t tile) {
        for (int64_t step = 0; step < steps(); ++step) pack(tile, step, samples);
      });
      barrier.wait(team);
      products.work([&](int64_t n) { task(tasks.rows(n), tasks.columns(n), samples); });
      kernels.leave();
    });
  }
};

// One sample: no tiles to fill; the weights are expanded in registers.
void forward_vector(const Kernels& kernels, const HalfLayer& layer, Packed packed, const Matrix& x, const float* bias,
                    const Matrix& y, int threads) {
  const int64_t line = kernels.block_bytes / kSide;
  char* samples = room(Scratch::activations, layer.column_blocks() * line);
  for (int64_t b = 0; b < layer.column_blocks(); ++b)
    kernels.line(corner(x, 0, layer.column_begin(b), 1, layer.column_width(b)), samples + b * line);
  threads = threads_worth(threads, layer.blocks());
  run_team(threads, [&](int thread, int team) {
    alignas(64) float sums[kSide];
    const Range mine = share(layer.row_blocks(), thread, team);
    for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
      const int64_t block = layer.block(panel, 0);
      kernels.panel(layer.masks(block), packed, layer.first(block), layer.column_blocks(), samples, sums);
      const int width = layer.row_width(panel);
      if (bias) {
        for (int i = 0; i < width; ++i) sums[i] += bias[panel * kSide + i];
      }
      kernels.write(sums, target(y, 0, panel * kSide, 1, width));
    }
  });
}

// dW as dense blocks of 32 outputs × 32 inputs, contraction over the samples; of each the mask picks its own.
struct WeightGradient {
  const Kernels& kernels;
  const HalfLayer& layer;
  const Matrix &x, &dy;
  float* const dvalues;

  int64_t steps() const { return blocks_of(x.samples); }
  int64_t bytes() const { return kernels.block_bytes; }

  void pack_dy(int64_t panel, char* left) const {
    for (int64_t step = 0; step < steps(); ++step)
      kernels.left_turned(corner(dy, step * kSide, panel * kSide, within(x.samples, step), layer.row_width(panel)),
                          left + (panel * steps() + step) * bytes());
  }
  void pack_x(int64_t tile, char* right) const {
    for (int64_t step = 0; step < steps(); ++step)
      kernels.right(corner(x, step * kSide, layer.column_begin(tile), within(x.samples, step), layer.column_width(tile)),
                    right + (tile * steps() + step) * bytes());
  }

  void task(Range panels, Range tiles, const char* left, const char* right) const {
    float* sums = scratch(Scratch::numbers, kSums * kBlock);
    const int64_t width = tiles.end - tiles.begin;
    for (int64_t begin = 0; begin < steps(); begin += kMostStep) {
      const int64_t end = std::min<int64_t>(begin + kMostStep, steps());
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
          const int64_t block = layer.block(panel, tile);
          if (layer.empty(block)) continue;
          float* sum = sums + ((panel - panels.begin) * width + tile - tiles.begin) * kBlock;
          kernels.multiply(left + (panel * steps() + begin) * bytes(), kInOrder, right + (tile * steps() + begin) * bytes(),
                           kInOrder, int(end - begin), layer.row_width(panel), layer.column_width(tile), begin > 0, sum);
          if (end == steps()) kernels.pick(sum, layer.masks(block), layer.starts(block), dvalues);
        }
      }
    }
  }

  void run(int threads) const {
    const int64_t panels = layer.row_blocks(), tiles = layer.column_blocks();
    char* left = room(Scratch::gradients, panels * steps() * bytes());
    char* right = room(Scratch::activations, tiles * steps() * bytes());
    threads = threads_worth(threads, steps() * layer.blocks());
    const Tasks tasks(panels, tiles, task_size(), threads);
    Queue packs(panels + tiles), products(tasks.count());
    Barrier barrier;
    run_team(threads, [&](int, int team) {
      kernels.enter();
      packs.work([&](int64_t n) { n < panels ? pack_dy(n, left) : pack_x(n - panels, right); });
      barrier.wait(team);
      products.work([&](int64_t n) { task(tasks.rows(n), tasks.columns(n), left, right); });
      kernels.leave();
    });
  }
};

}  // namespace

void round_values(const HalfLayer& layer, const float* values, uint16_t* packed, int threads) {
  const Kernels& kernels = current_kernels();
  run_team(threads_worth(threads, layer.blocks()), [&](int thread, int team) {
    const Range mine = share(layer.blocks(), thread, team);
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      if (!layer.empty(b)) kernels.round(layer.masks(b), layer.starts(b), values, packed + *layer.first(b));
    }
  });
}

void forward(const HalfLayer& layer, Packed packed, const Matrix& x, const float* bias, const Matrix& y, int threads) {
  const Kernels& kernels = current_kernels();
  if (x.samples == 1) return forward_vector(kernels, layer, packed, x, bias, y, threads);
  WeightProduct{kernels, layer, packed, true, x, bias, y}.run(threads);
}

void input_gradient(const HalfLayer& layer, Packed packed, const Matrix& dy, const Matrix& dx, int threads) {
  WeightProduct{current_kernels(), layer, packed, false, dy, nullptr, dx}.run(threads);
}

void weight_gradient(const HalfLayer& layer, const Matrix& x, const Matrix& dy, float* dvalues, int threads) {
  WeightGradient{current_kernels(), layer, x, dy, dvalues}.run(threads);
}

}  // namespace secateur::half
