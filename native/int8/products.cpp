// The order of the loops is that of half/products.cpp: a few blocks of a panel are expanded into the first-level cache and
// meet all samples of a task, whose blocks and sums stay in the second-level cache.

#include <mutex>
#include <stdexcept>

#include "base/caches.h"
#include "base/extensions.h"
#include "base/isa.h"
#include "half/corners.h"
#include "half/sets.h"
#include "half/tasks.h"
#include "int8/layer.h"

namespace secateur::int8 {
namespace {

using half::Matrix;
using half::blocks_of;
using half::corner;
using half::room;
using half::target;
using half::within;

constexpr int kStep = 8;  // blocks, 16 KiB of weights
constexpr int64_t kMostTiles = 8, kMostPanels = 16;

enum Set { kNone, kVnni, kTiles };

Set most() {
  static const Set found = [] {
    const bool vnni = has_pairs() && has_leaf7(2, 11);
#if defined(SECATEUR_HAVE_AMX_INT8)
    if (vnni && has_tiles() && has_leaf7(3, 25)) return kTiles;
#endif
#if defined(SECATEUR_HAVE_VNNI)
    if (vnni) return kVnni;
#endif
    static_cast<void>(vnni);
    return kNone;
  }();
  return current_isa() == Isa::avx512 ? found : kNone;
}

std::mutex guard;
int wanted = -1;

Set current() {
  const std::lock_guard<std::mutex> lock(guard);
  return wanted < 0 ? most() : std::min(Set(wanted), most());
}

const char* const kNames[] = {"", "vnni", "amx"};

Kernels kernels_of(Set set) {
#if defined(SECATEUR_HAVE_AMX_INT8)
  if (set == kTiles) return with_tiles(vnni_kernels);
#endif
#if defined(SECATEUR_HAVE_VNNI)
  if (set == kVnni) return vnni_kernels;
#endif
  throw std::logic_error("this processor has no instructions for products of bytes");
}

struct Forward {
  const Kernels kernels;
  const Layer& layer;
  const Matrix& x;
  const float* const bias;
  const Matrix& y;

  int64_t tiles() const { return blocks_of(x.samples); }
  int64_t tile_bytes() const { return layer.depth() * kBlock; }

  void round_row(int64_t sample, uint8_t* to, float* scale) const {
    const half::Corner row = corner(x, sample, 0, 1, int(layer.columns()));
    kernels.round(row.at, x.bf16, layer.columns(), layer.depth(), to, scale);
  }

  void pack(int64_t tile, char* samples, float* of) const {
    auto* rows = reinterpret_cast<uint8_t*>(room(Scratch::places, tile_bytes()));
    const int count = within(x.samples, tile);
    for (int i = 0; i < count; ++i) round_row(tile * kRows + i, rows + i * layer.depth() * kInputs, of + tile * kRows + i);
    std::fill_n(rows + count * layer.depth() * kInputs, (kRows - count) * layer.depth() * kInputs, uint8_t(0));
    for (int64_t b = 0; b < layer.depth(); ++b)
      kernels.right(rows + b * kInputs, layer.depth() * kInputs, samples + tile * tile_bytes() + b * kBlock);
  }

  int expand(int64_t panel, int64_t begin, int64_t end, int8_t* weights, int32_t* which) const {
    int count = 0;
    for (int64_t step = begin; step < end; ++step) {
      const int64_t block = panel * layer.depth() + step;
      if (layer.empty(block)) continue;
      kernels.expand(layer.masks(block), layer.values() + *layer.first(block), weights + count * kBlock);
      which[count++] = int32_t(step);
    }
    return count;
  }

  void write(int64_t tile, int64_t panel, const int32_t* sums, const float* of) const {
    const int count = within(x.samples, tile);
    kernels.write(sums, layer.totals(panel), layer.scales(panel), of + tile * kRows, bias ? bias + panel * kRows : nullptr,
                  target(y, tile * kRows, panel * kRows, count, layer.row_width(panel)));
  }

  void task(Range tiles, Range panels, const char* samples, const float* of) const {
    auto* weights = reinterpret_cast<int8_t*>(room(Scratch::places, kStep * kBlock));
    auto* sums = reinterpret_cast<int32_t*>(scratch(Scratch::numbers, kMostTiles * kMostPanels * kRows * kRows));
    int32_t which[kStep];
    const int64_t width = panels.end - panels.begin;
    for (int64_t begin = 0; begin < layer.depth(); begin += kStep) {
      const int64_t end = std::min<int64_t>(begin + kStep, layer.depth());
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int count = expand(panel, begin, end, weights, which);
        for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
          int32_t* sum = sums + ((tile - tiles.begin) * width + panel - panels.begin) * kRows * kRows;
          const auto* own = reinterpret_cast<const uint8_t*>(samples + tile * tile_bytes());
          if (count || begin == 0)
            kernels.multiply(weights, own, which, count, layer.row_width(panel), within(x.samples, tile), begin > 0, sum);
          if (end == layer.depth()) write(tile, panel, sum, of);
        }
      }
    }
  }

  void run(int threads) const {
    char* samples = room(Scratch::activations, tiles() * tile_bytes());
    float* of = scratch(Scratch::gradients, tiles() * kRows);
    threads = half::threads_worth(threads, tiles() * layer.panels() * layer.depth());
    const int64_t fitting = second_level_bytes() / 2 / (kMostTiles * kRows * kRows * 4);
    const half::Tasks tasks(tiles(), layer.panels(), {kMostTiles, std::clamp<int64_t>(fitting, 4, kMostPanels)}, threads);
    half::Queue packs(tiles()), products(tasks.count());
    Barrier barrier;
    run_team(threads, [&](int, int team) {
      kernels.enter();
      packs.work([&](int64_t tile) { pack(tile, samples, of); });
      barrier.wait(team);
      products.work([&](int64_t n) { task(tasks.rows(n), tasks.columns(n), samples, of); });
      kernels.leave();
    });
  }

  void run_one(int threads) const {
    auto* sample = reinterpret_cast<uint8_t*>(room(Scratch::activations, layer.depth() * kInputs));
    float of;
    round_row(0, sample, &of);
    threads = half::threads_worth(threads, layer.panels() * layer.depth());
    run_team(threads, [&](int thread, int team) {
      alignas(64) int32_t sums[kRows], spread[kRows * kRows];
      const Range mine = share(layer.panels(), thread, team);
      for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
        const int64_t block = panel * layer.depth();
        kernels.panel(layer.masks(block), layer.values(), layer.first(block), layer.depth(), sample, sums);
        for (int row = 0; row < kRows; ++row) spread[row * kRows] = sums[row];
        write(0, panel, spread, &of);
      }
    });
  }
};

}  // namespace

void forward(const Layer& layer, const Matrix& x, const float* bias, const Matrix& y, int threads) {
  const Forward product{kernels_of(current()), layer, x, bias, y};
  x.samples == 1 ? product.run_one(threads) : product.run(threads);
}

std::vector<std::string> supported_sets() {
  std::vector<std::string> found;
  for (int set = kVnni; set <= most(); ++set) found.push_back(kNames[set]);
  return found;
}

std::string current_set() { return kNames[current()]; }

void use_set(const std::string& name) {
  const auto known = supported_sets();
  int found = -1;
  for (size_t i = 0; i < known.size(); ++i) {
    if (name == known[i]) found = int(i) + kVnni;
  }
  if (found < 0 && !name.empty()) throw std::invalid_argument("there is no set for int8 called '" + name + "' on this machine");
  const std::lock_guard<std::mutex> lock(guard);
  wanted = found;
}

}  // namespace secateur::int8
