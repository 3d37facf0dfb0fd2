// A group's 64 outputs read the same pairs of inputs, so their weights are a full matrix once those pairs have been taken
// out of the samples' blocks: a copy of 128 bytes a pair, which 64 outputs × 32 samples share. What is multiplied, and
// how sums are written, is as for single weights (products.cpp).

#include "paired/products.h"

#include <cstring>
#include <stdexcept>

#include "base/caches.h"
#include "half/corners.h"
#include "half/sets.h"
#include "half/tasks.h"

namespace secateur::half {
namespace {

constexpr int64_t kBytes = 2 * kBlock;   // of a block of pairs
constexpr int64_t kMostTiles = 8;        // of 32 samples, in one task
constexpr int64_t kMostGroups = 8;
constexpr int64_t kSamplesStep = 8;      // blocks of samples whose left blocks fit the first-level cache

const Kernels& kernels_with_pairs() {
  const Kernels& kernels = current_kernels();
  if (!kernels.paired) throw std::logic_error("the set in use has no kernels for blocks of 64 × 2");
  return kernels;
}

// How many tiles that take `bytes` each leave room for others in the second-level cache.
int64_t tiles_fitting(int64_t bytes) { return std::clamp<int64_t>(second_level_bytes() / 2 / bytes, 1, kMostTiles); }

struct Forward {
  const Kernels& kernels;
  const PairedLayer& layer;
  const Packed packed;
  const Matrix& x;
  const float* const bias;
  const Matrix& y;

  int64_t tiles() const { return blocks_of(x.samples); }
  int64_t tile_bytes() const { return layer.column_blocks() * kBytes; }

  void pack(int64_t tile, char* samples) const {
    const int rows = within(x.samples, tile);
    for (int64_t b = 0; b < layer.column_blocks(); ++b)
      kernels.right_turned(corner(x, tile * kSide, b * kSide, rows, layer.column_width(b)),
                           samples + tile * tile_bytes() + b * kBytes);
  }

  void task(Range tiles, Range groups, const char* samples) const {
    char* taken = room(Scratch::places, layer.deepest() * kBytes);
    float* sums = scratch(Scratch::numbers, kBlock);
    for (int64_t g = groups.begin; g < groups.end; ++g) {
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const int count = within(x.samples, tile);
        kernels.paired->take(samples + tile * tile_bytes(), layer.pairs(g), layer.pair_count(g), count > 16, taken);
        for (int half = 0; half < layer.halves(g); ++half) {
          const int64_t b = g * PairedLayer::kHalves + half;
          kernels.multiply(packed + layer.block(g, half) * kBlock, layer.in_order(), taken, layer.in_order(),
                           int(layer.depth(g)), layer.row_width(b), count, false, sums);
          kernels.write_turned(sums, bias ? bias + b * kSide : nullptr,
                               target(y, tile * kSide, b * kSide, count, layer.row_width(b)));
        }
      }
    }
  }

  void run(int threads) const {
    char* samples = room(Scratch::activations, tiles() * tile_bytes());
    threads = threads_worth(threads, tiles() * layer.packed() / kBlock);
    const Tasks tasks(tiles(), layer.groups(), {tiles_fitting(tile_bytes()), kMostGroups}, threads);
    Queue packs(tiles()), products(tasks.count());
    Barrier barrier;
    run_team(threads, [&](int, int team) {
      kernels.enter();
      packs.work([&](int64_t tile) { pack(tile, samples); });
      barrier.wait(team);
      products.work([&](int64_t n) { task(tasks.rows(n), tasks.columns(n), samples); });
      kernels.leave();
    });
  }

  // One sample: no tile to fill; a group's weights meet the pairs that it reads, in registers.
  void run_one(int threads) const {
    constexpr int64_t kLineBytes = kBytes / kSide;
    char* sample = room(Scratch::activations, layer.column_blocks() * kLineBytes);
    for (int64_t b = 0; b < layer.column_blocks(); ++b)
      kernels.line(corner(x, 0, b * kSide, 1, layer.column_width(b)), sample + b * kLineBytes);
    threads = threads_worth(threads, layer.packed() / kBlock);
    run_team(threads, [&](int thread, int team) {
      const Range mine = share(layer.groups(), thread, team);
      char* taken = room(Scratch::places, layer.deepest() * kLineBytes);
      alignas(64) float sums[kSide];
      for (int64_t g = mine.begin; g < mine.end; ++g) {
        kernels.paired->take_line(sample, layer.pairs(g), layer.pair_count(g), layer.depth(g), taken);
        for (int half = 0; half < layer.halves(g); ++half) {
          const int64_t b = g * PairedLayer::kHalves + half;
          const int width = layer.row_width(b);
          kernels.paired->panel(packed + layer.block(g, half) * kBlock, layer.depth(g), taken, sums);
          for (int i = 0; bias && i < width; ++i) sums[i] += bias[b * kSide + i];
          kernels.write(sums, target(y, 0, b * kSide, 1, width));
        }
      }
    });
  }
};

// dxᵀ = Wᵀ dyᵀ: a product of a group brings sums for the pairs it reads, which are added to those of the other groups.
struct InputGradient {
  const Kernels& kernels;
  const PairedLayer& layer;
  const Packed packed;
  const Matrix& dy;
  const Matrix& dx;

  int64_t tiles() const { return blocks_of(dy.samples); }
  int64_t sums_bytes() const { return layer.column_blocks() * kBlock * 4; }  // of one tile

  void pack(int64_t tile, char* samples) const {
    const int rows = within(dy.samples, tile);
    for (int64_t b = 0; b < layer.row_blocks(); ++b)
      kernels.right_turned(corner(dy, tile * kSide, b * kSide, rows, layer.row_width(b)),
                           samples + (tile * layer.row_blocks() + b) * kBytes);
  }

  // A group's weights at one block of pairs, turned: its halves follow each other.
  void turn(int64_t g, int64_t j, uint16_t* turned) const {
    for (int half = 0; half < layer.halves(g); ++half) {
      const uint16_t* from = packed + (layer.block(g, half) + j) * kBlock;
      kernels.left_turned({from, kSide, kSide, kSide, true}, turned + half * kBlock);
    }
  }
  void turn_all(int64_t g, uint16_t* turned) const {
    for (int64_t j = 0; j < layer.depth(g); ++j) turn(g, j, turned + (layer.block(g, 0) + j * layer.halves(g)) * kBlock);
  }

  // turned: of all groups; null: each is turned where it is multiplied.
  void add(int64_t tile, Range groups, const char* samples, const uint16_t* turned, float* own, float* all) const {
    const int count = within(dy.samples, tile);
    auto* here = reinterpret_cast<uint16_t*>(room(Scratch::places, PairedLayer::kHalves * kBytes));
    for (int64_t g = groups.begin; g < groups.end; ++g) {
      const char* right = samples + (tile * layer.row_blocks() + g * PairedLayer::kHalves) * kBytes;
      for (int64_t j = 0; j < layer.depth(g); ++j) {
        const int64_t done = j * PairedLayer::kPairs, rest = layer.pair_count(g) - done;
        const int64_t some = std::min<int64_t>(rest, PairedLayer::kPairs);
        if (!turned) turn(g, j, here);
        const uint16_t* left = turned ? turned + (layer.block(g, 0) + j * layer.halves(g)) * kBlock : here;
        kernels.multiply(left, kFirst, right, kFirst, layer.halves(g), int(2 * some), count, false, own);
        kernels.paired->add_rows(own, layer.pairs(g) + done, some, all);
      }
    }
  }

  void write(int64_t tile, int64_t b, const float* sums) const {
    kernels.write_turned(sums, nullptr, target(dx, tile * kSide, b * kSide, within(dy.samples, tile), layer.column_width(b)));
  }

  void run(int threads) const {
    threads = threads_worth(threads, tiles() * layer.packed() / kBlock);
    // Whoever has a tile has all its sums; where tiles are few, each is split by groups, and those sums are added up.
    const int64_t parts = tiles() >= threads ? 1 : std::min<int64_t>((threads + tiles() - 1) / tiles(), layer.groups());
    const int64_t packing = tiles() * layer.row_blocks() * kBytes, each = sums_bytes() / 4;
    char* samples = room(Scratch::activations, packing + (parts > 1 ? tiles() * parts * sums_bytes() : 0));
    float* shared = reinterpret_cast<float*>(samples + packing);
    const bool reused = tiles() > 1;
    auto* turned = reused ? reinterpret_cast<uint16_t*>(room(Scratch::gradients, layer.packed() * 2)) : nullptr;
    Queue packs(tiles() + (reused ? layer.groups() : 0)), products(tiles() * parts), writes(parts > 1 ? tiles() * layer.column_blocks() : 0);
    Barrier barrier;
    run_team(threads, [&](int, int team) {
      kernels.enter();
      float* own = scratch(Scratch::numbers, kBlock + (parts > 1 ? 0 : each));
      packs.work([&](int64_t n) { n < tiles() ? pack(n, samples) : turn_all(n - tiles(), turned); });
      barrier.wait(team);
      products.work([&](int64_t n) {
        const int64_t tile = n / parts, part = n % parts;
        float* all = parts > 1 ? shared + n * each : own + kBlock;
        std::memset(all, 0, size_t(sums_bytes()));
        add(tile, share(layer.groups(), int(part), int(parts)), samples, turned, own, all);
        if (parts > 1) return;
        for (int64_t b = 0; b < layer.column_blocks(); ++b) write(tile, b, all + b * kBlock);
      });
      if (parts > 1) barrier.wait(team);
      writes.work([&](int64_t n) {
        const int64_t tile = n / layer.column_blocks(), b = n % layer.column_blocks();
        float* first = shared + tile * parts * each + b * kBlock;
        for (int64_t part = 1; part < parts; ++part) {
          for (int i = 0; i < kBlock; ++i) first[i] += first[part * each + i];
        }
        write(tile, b, first);
      });
      kernels.leave();
    });
  }

  static constexpr int32_t kFirst[PairedLayer::kHalves] = {0, 1};
};

// dWᵀ = xᵀ dy at a group's pairs: rows of xᵀ are taken out as in the forward product, and meet 64 outputs.
struct WeightGradient {
  const Kernels& kernels;
  const PairedLayer& layer;
  const Matrix &x, &dy;
  float* const dvalues;

  int64_t steps() const { return blocks_of(x.samples); }

  void pack_x(int64_t step, char* left) const {
    for (int64_t b = 0; b < layer.column_blocks(); ++b)
      kernels.left_turned(corner(x, step * kSide, b * kSide, within(x.samples, step), layer.column_width(b)),
                          left + (step * layer.column_blocks() + b) * kBytes);
  }
  void pack_dy(int64_t b, char* right) const {
    for (int64_t step = 0; step < steps(); ++step)
      kernels.right(corner(dy, step * kSide, b * kSide, within(x.samples, step), layer.row_width(b)),
                    right + (b * steps() + step) * kBytes);
  }

  void task(int64_t g, const char* left, const char* right) const {
    char* taken = room(Scratch::places, kSamplesStep * kBytes);
    float* sums = scratch(Scratch::numbers, PairedLayer::kHalves * kBlock);
    const int64_t rows = g * PairedLayer::kTall;
    for (int64_t j = 0; j < layer.depth(g); ++j) {
      const int64_t done = j * PairedLayer::kPairs, some = std::min<int64_t>(layer.pair_count(g) - done, PairedLayer::kPairs);
      for (int64_t begin = 0; begin < steps(); begin += kSamplesStep) {
        const int64_t count = std::min(kSamplesStep, steps() - begin);
        for (int64_t s = 0; s < count; ++s)
          kernels.paired->take_rows(left + (begin + s) * layer.column_blocks() * kBytes, layer.pairs(g) + done, some,
                                    taken + s * kBytes);
        for (int half = 0; half < layer.halves(g); ++half) {
          const int64_t b = g * PairedLayer::kHalves + half;
          kernels.multiply(taken, kSteps, right + (b * steps() + begin) * kBytes, kSteps, int(count), int(2 * some),
                           layer.row_width(b), begin > 0, sums + half * kBlock);
        }
      }
      for (int64_t row = rows; row < std::min(rows + PairedLayer::kTall, layer.rows()); row += 4)
        layer.write_four(row, 2 * done, 2 * some, sums + (row - rows) / kSide * kBlock + (row - rows) % kSide, kSide, dvalues);
    }
  }

  void run(int threads) const {
    char* left = room(Scratch::activations, steps() * layer.column_blocks() * kBytes);
    char* right = room(Scratch::gradients, steps() * layer.row_blocks() * kBytes);
    threads = threads_worth(threads, steps() * layer.packed() / kBlock);
    Queue packs(steps() + layer.row_blocks()), products(layer.groups());
    Barrier barrier;
    run_team(threads, [&](int, int team) {
      kernels.enter();
      packs.work([&](int64_t n) { n < steps() ? pack_x(n, left) : pack_dy(n - steps(), right); });
      barrier.wait(team);
      products.work([&](int64_t g) { task(g, left, right); });
      kernels.leave();
    });
  }

  static constexpr int32_t kSteps[kSamplesStep] = {0, 1, 2, 3, 4, 5, 6, 7};
};

}  // namespace

void round_values(const PairedLayer& layer, const float* values, uint16_t* packed, int threads) {
  const PairedKernels& kernels = *kernels_with_pairs().paired;
  run_team(threads_worth(threads, layer.packed() / kBlock), [&](int thread, int team) {
    const Range mine = share(layer.groups(), thread, team);
    float* four = scratch(Scratch::numbers, std::max<int64_t>(layer.deepest(), 1) * kSide * 4);
    for (int64_t g = mine.begin; g < mine.end; ++g) {
      const int64_t lines = layer.depth(g);
      std::fill_n(four, lines * kSide * 4, 0.0f);
      for (int64_t row = 0; row < layer.halves(g) * kSide; row += 4) {
        const int64_t at = g * PairedLayer::kTall + row;
        if (at < layer.rows())
          layer.read_four(at, values, four);
        else
          std::fill_n(four, lines * kSide * 4, 0.0f);
        kernels.round_four(four, lines, packed + layer.block(g, int(row / kSide)) * kBlock + row % kSide * kSide);
      }
    }
  });
}

void forward(const PairedLayer& layer, Packed packed, const Matrix& x, const float* bias, const Matrix& y, int threads) {
  const Forward product{kernels_with_pairs(), layer, packed, x, bias, y};
  x.samples == 1 ? product.run_one(threads) : product.run(threads);
}

void input_gradient(const PairedLayer& layer, Packed packed, const Matrix& dy, const Matrix& dx, int threads) {
  InputGradient{kernels_with_pairs(), layer, packed, dy, dx}.run(threads);
}

void weight_gradient(const PairedLayer& layer, const Matrix& x, const Matrix& dy, float* dvalues, int threads) {
  WeightGradient{kernels_with_pairs(), layer, x, dy, dvalues}.run(threads);
}

}  // namespace secateur::half
