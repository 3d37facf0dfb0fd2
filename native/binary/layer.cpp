#include "binary/layer.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "base/room.h"
#include "base/team.h"
#include "base/extensions.h"

namespace secateur::binary {
namespace {

constexpr int64_t kTile = 32;  // samples that meet four rows before the next four are read

bool has_counts() {
#if defined(SECATEUR_HAVE_VPOPCNTDQ)
  static const bool found = __builtin_cpu_supports("avx512f") && has_leaf7(2, 14);
  return found && current_isa() == Isa::avx512;
#else
  return false;
#endif
}

std::atomic<bool> plain{false};  // for tests: without vpopcntdq

Kernels current() {
  const Kernels base = SECATEUR_TABLE(binary_kernels);
#if defined(SECATEUR_HAVE_VPOPCNTDQ)
  if (has_counts() && !plain) return with_counts(base);
#endif
  return base;
}

struct Product {
  const Kernels kernels;
  const Layer& layer;
  const float* const scales;
  const float* const bias;
  float* const y;
  const uint64_t* const bits;  // of the samples

  // Once compiled, for any machine, so that product and sum are rounded one by one, as torch does.
  void write(int64_t sample, int64_t row, int32_t differ) const {
    const float scaled = scales[row] * static_cast<float>(layer.kept(row) - 2 * differ);
    y[sample * layer.rows() + row] = bias ? scaled + bias[row] : scaled;
  }

  void rows(Range part, Range samples) const {
    const int64_t words = layer.lines() * kLine;
    int32_t differ[kSamples][kRows];
    for (int64_t row = part.begin; row < part.end; row += kRows) {
      const int many = int(std::min<int64_t>(kRows, part.end - row));
      for (int64_t s = samples.begin; s < samples.end; s += kSamples) {
        const int own = int(std::min<int64_t>(kSamples, samples.end - s));
        kernels.differ(bits + s * words, own, layer.signs(row), layer.mask(row), many, layer.lines(), differ);
        for (int i = 0; i < own; ++i) {
          for (int j = 0; j < many; ++j) write(s + i, row + j, differ[i][j]);
        }
      }
    }
  }
};

}  // namespace

Layer::Layer(int64_t rows, int64_t columns, const uint8_t* signs, const uint8_t* there) : rows_(rows), columns_(columns) {
  if (rows < 1 || columns < 1 || rows >= INT32_MAX || columns >= INT32_MAX)
    throw std::invalid_argument("a binary layer needs between 1 and 2^31 rows and columns");
  const int64_t words = lines() * kLine;
  signs_.assign(size_t(rows * words), 0);
  kept_.assign(size_t(rows), 0);
  bool whole = true;
  for (int64_t i = 0; i < rows * columns && whole; ++i) whole = there[i] != 0;
  if (!whole) masks_.assign(size_t(rows * words), 0);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t i = row * columns + column, word = row * words + column / 64;
      if (!there[i]) continue;
      ++kept_[size_t(row)];
      signs_[size_t(word)] |= uint64_t(signs[i] != 0) << column % 64;
      if (!whole) masks_[size_t(word)] |= uint64_t{1} << column % 64;
    }
  }
}

bool forward(const Layer& layer, const float* x, int64_t stride, int64_t samples, const float* scales, const float* bias,
             float* y, int threads) {
  const int64_t words = layer.lines() * kLine;
  auto* bits = reinterpret_cast<uint64_t*>(scratch(Scratch::activations, 2 * samples * words));
  const Product product{current(), layer, scales, bias, y, bits};
  // A thread is worth its start from about ten microseconds on.
  const int64_t lines = samples * layer.rows() * layer.lines();
  threads = int(std::clamp<int64_t>(lines / 16384, 1, std::max(threads, 1)));
  std::atomic<bool> right{true};
  Barrier barrier;
  run_team(threads, [&](int thread, int team) {
    const Range mine = share(samples, thread, team);
    for (int64_t s = mine.begin; s < mine.end; ++s) {
      if (!product.kernels.pack(x + s * stride, layer.columns(), bits + s * words)) right = false;
    }
    barrier.wait(team);
    const Range part = share(layer.rows(), thread, team, kRows);
    for (int64_t s = 0; s < samples; s += kTile) product.rows(part, {s, std::min(s + kTile, samples)});
  });
  return right;
}

std::vector<std::string> supported_sets() {
  std::vector<std::string> found{isa_name(current_isa())};
  if (has_counts()) found.emplace_back("vpopcntdq");
  return found;
}

std::string current_set() { return has_counts() && !plain ? "vpopcntdq" : isa_name(current_isa()); }

void use_set(const std::string& name) {
  const auto known = supported_sets();
  if (!name.empty() && std::find(known.begin(), known.end(), name) == known.end())
    throw std::invalid_argument("there is no set for bits called '" + name + "' on this machine");
  plain = !name.empty() && name != "vpopcntdq";
}

}  // namespace secateur::binary
