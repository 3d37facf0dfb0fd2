#include "paired/layer.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>

namespace secateur::half {
namespace {

constexpr int64_t kFour = 4;

}  // namespace

PairedLayer* PairedLayer::of(int64_t rows, int64_t columns, const int64_t* positions, int64_t count,
                             const int64_t* edges, int64_t edge_count) {
  if (rows < 1 || columns < 1 || rows >= INT32_MAX || columns >= INT32_MAX)
    throw std::invalid_argument("a sparse layer needs between 1 and 2^31 rows and columns");
  if (count >= INT32_MAX) throw std::invalid_argument("a sparse layer must have fewer than 2^31 weights");
  if (edge_count < 2 || edges[0] != 0 || edges[edge_count - 1] != columns)
    throw std::invalid_argument("edges must go from 0 to the number of columns");
  for (int64_t i = 0; i + 1 < edge_count; ++i) {
    if (edges[i + 1] <= edges[i]) throw std::invalid_argument("edges must ascend");
  }
  std::unique_ptr<PairedLayer> made(new PairedLayer(rows, columns));
  if (!made->find_pairs(positions, count) || !made->place(positions, count, edges, edge_count)) return nullptr;
  return made.release();
}

// What the first row of each group keeps: all that the others of it must keep, too, which `place` finds out.
bool PairedLayer::find_pairs(const int64_t* positions, int64_t count) {
  std::vector<std::vector<int32_t>> of(static_cast<size_t>(groups()));
  const int64_t whole = rows_ - rows_ % kFour;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t p = positions[k];
    if (p < 0 || p >= rows_ * columns_) throw std::invalid_argument("a position lies outside of the layer");
    const int64_t row = p / columns_, column = p % columns_;
    if (row % kTall == 0) {
      std::vector<int32_t>& own = of[size_t(row / kTall)];
      const int32_t pair = int32_t(column / 2);
      if (column % 2 == 0) {
        own.push_back(pair);
      } else if (own.empty() || own.back() != pair) {
        return false;
      }
    }
    if (row < whole) k += kFour - 1;  // its three fellows
  }
  first_pair_ = {0}, first_block_ = {0};
  int64_t most = 0;
  for (int64_t g = 0; g < groups(); ++g) {
    const std::vector<int32_t>& own = of[size_t(g)];
    pairs_.insert(pairs_.end(), own.begin(), own.end());
    first_pair_.push_back(int64_t(pairs_.size()));
    first_block_.push_back(first_block_.back() + halves(g) * depth(g));
    most = std::max(most, depth(g));
  }
  in_order_.resize(size_t(most));
  std::iota(in_order_.begin(), in_order_.end(), 0);
  return true;
}

int64_t PairedLayer::alive(int64_t group) const {
  const int64_t some = pair_count(group);
  const bool half = some && columns_ % 2 && pairs(group)[some - 1] == columns_ / 2;
  return 2 * some - half;
}

bool PairedLayer::place(const int64_t* positions, int64_t count, const int64_t* edges, int64_t edge_count) {
  parts_ = edge_count - 1, count_ = count;
  run_begin_.reserve(size_t(groups() * edge_count));
  for (int64_t g = 0; g < groups(); ++g) {
    for (int64_t part = 0; part < edge_count; ++part) {
      const int64_t before = edges[part] / 2;
      const int32_t* own = pairs(g);
      const int64_t at = std::lower_bound(own, own + pair_count(g), int32_t(before)) - own;
      const bool split = edges[part] % 2 && at < pair_count(g) && own[at] == before;
      run_begin_.push_back(int32_t(std::min(2 * at + split, alive(g))));
    }
  }
  int64_t k = 0;
  const auto is_next = [&](int64_t row, int64_t g, int64_t i) {
    return k < count && positions[k++] == row * columns_ + 2 * int64_t(pairs(g)[i / 2]) + i % 2;
  };
  const int64_t fours = rows_ / kFour;
  four_begin_.assign(size_t(fours * parts_), 0);
  for (int64_t part = 0; part < parts_; ++part) {
    for (int64_t four = 0; four < fours; ++four) {
      const int64_t g = four * kFour / kTall;
      const int32_t* run = run_begin_.data() + g * (parts_ + 1) + part;
      four_begin_[size_t(four * parts_ + part)] = k;
      for (int64_t i = run[0]; i < run[1]; ++i) {
        for (int64_t r = 0; r < kFour; ++r) {
          if (!is_next(four * kFour + r, g, i)) return false;
        }
      }
    }
  }
  for (int64_t row = fours * kFour; row < rows_; ++row) {
    const int64_t g = row / kTall;
    row_begin_.push_back(k);
    for (int64_t i = 0; i < alive(g); ++i) {
      if (!is_next(row, g, i)) return false;
    }
  }
  return k == count;
}

template <class Each>
void PairedLayer::runs(int64_t row, Each&& each) const {
  const int64_t four = row / kFour;
  if (four == rows_ / kFour) return each(int64_t(0), alive(row / kTall), row_begin_[size_t(row % kFour)], int64_t(1));
  const int32_t* run = run_begin_.data() + row / kTall * (parts_ + 1);
  for (int64_t part = 0; part < parts_; ++part)
    each(int64_t(run[part]), int64_t(run[part + 1] - run[part]),
         four_begin_[size_t(four * parts_ + part)] + row % kFour, kFour);
}

void PairedLayer::read_four(int64_t row, const float* values, float* four) const {
  if (row + kFour <= rows_) {  // the four lie as they are wanted
    runs(row, [&](int64_t first, int64_t some, int64_t begin, int64_t) {
      std::copy_n(values + begin, some * kFour, four + first * kFour);
    });
    return;
  }
  std::fill_n(four, alive(row / kTall) * kFour, 0.0f);
  for (int64_t r = 0; r < kFour && row + r < rows_; ++r) {
    runs(row + r, [&](int64_t first, int64_t some, int64_t begin, int64_t step) {
      for (int64_t i = 0; i < some; ++i) four[(first + i) * kFour + r] = values[begin + i * step];
    });
  }
}

void PairedLayer::write_four(int64_t row, int64_t first, int64_t count, const float* sums, int64_t stride,
                             float* values) const {
  const bool together = row + kFour <= rows_;
  for (int64_t r = 0; r < (together ? 1 : kFour) && row + r < rows_; ++r) {
    runs(row + r, [&](int64_t begin, int64_t some, int64_t at, int64_t step) {
      const int64_t from = std::max(begin, first), to = std::min(begin + some, first + count);
      const float* sum = sums + (from - first) * stride + r;
      float* value = values + at + (from - begin) * step;
      for (int64_t i = from; i < to; ++i, sum += stride, value += step) std::copy_n(sum, together ? kFour : 1, value);
    });
  }
}

int64_t PairedLayer::bytes() const {
  const auto sizes = pairs_.size() + in_order_.size() + run_begin_.size();
  return int64_t(4 * sizes + 8 * (first_pair_.size() + first_block_.size() + four_begin_.size() + row_begin_.size()));
}

}  // namespace secateur::half
