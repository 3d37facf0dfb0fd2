#include "layers/conv_rows.h"

#include <algorithm>
#include <numeric>

#include "base/caches.h"

namespace secateur {
namespace {

constexpr int kMostAccumulators = 16;
// A block computes all of its places about twice as fast as single rows compute those that are kept.
constexpr double kWorthwhile = 0.5;
// Inputs and gradients that one sweep over the weights may touch in the second-level cache.
int64_t swept_bytes() { return second_level_bytes() / 2; }
constexpr int64_t kChunkBytes = 32 * 1024, kRowBytes = 256 * 1024;
constexpr int64_t kTapsOfChunk = 20, kTapsOfSlab = 8;

int32_t parts_of(int32_t count, int32_t limit) { return (count + limit - 1) / limit; }

// How many positions, rows and tiles are computed together: as many as there are registers for, in even parts.
struct Grouping {
  int32_t positions, rows, tiles;

  static Grouping of(const ConvSweep& s, int32_t limit) {
    Grouping best{1, 1, 1};
    int64_t best_cost = INT64_MAX;
    const int32_t most_groups = std::min<int32_t>(kMostGroups, limit);
    for (int32_t p = 1; p <= std::min(s.width, limit); ++p) {
      if (p != parts_of(s.width, parts_of(s.width, p))) continue;  // an uneven cut
      for (int32_t r = 1; r <= std::min(s.height, most_groups) && r * p <= limit; ++r) {
        // Tiles together only pay where a sample has next to no positions.
        const int32_t t = r * p <= 2 ? std::min({s.tiles, most_groups / r, limit / (r * p)}) : 1;
        const int64_t passes = int64_t(parts_of(s.width, p)) * parts_of(s.height, r) * parts_of(s.tiles, t);
        // Each weight costs its multiply-adds, and a little for itself; wide groups, and tiles most of all, touch more of the cache.
        const int64_t cost = passes * (p * r * t * 8 + 20) + (p + 2) * (r + 2) * t / 4;
        if (cost < best_cost) best = {p, r, t}, best_cost = cost;
      }
    }
    return best;
  }
};

std::vector<int64_t> running(const std::vector<int64_t>& work) {
  std::vector<int64_t> totals(work.size() + 1, 0);
  std::partial_sum(work.begin(), work.end(), totals.begin() + 1);
  return totals;
}

}  // namespace

void ConvRows::find_blocks(int64_t channel_bytes) {
  block_starts_ = {0}, block_offsets_.clear(), block_rows_.clear(), block_order_.clear(), singles_.clear();
  std::vector<int32_t> sorted(static_cast<size_t>(rows()));
  std::iota(sorted.begin(), sorted.end(), 0);
  const auto taps = [this](int32_t r) { return starts[size_t(r) + 1] - starts[size_t(r)]; };
  std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) { return taps(a) > taps(b); });
  std::vector<bool> blocked(size_t(rows()), false);
  std::vector<int64_t> work;
  for (size_t first = 0; first + kBlockRows <= sorted.size(); first += kBlockRows) {
    std::vector<int32_t> all;
    int64_t kept = 0;
    for (size_t i = first; i < first + kBlockRows; ++i) {
      all.insert(all.end(), offsets.begin() + starts[size_t(sorted[i])], offsets.begin() + starts[size_t(sorted[i]) + 1]);
      kept += taps(sorted[i]);
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    if (all.empty() || double(kept) < kWorthwhile * kBlockRows * double(all.size())) continue;
    const size_t base = block_order_.size();
    block_order_.resize(base + kBlockRows * all.size(), -1);
    for (size_t r = 0; r < kBlockRows; ++r) {
      const int32_t row = sorted[first + r];
      block_rows_.push_back(row);
      blocked[size_t(row)] = true;
      for (int32_t k = starts[size_t(row)]; k < starts[size_t(row) + 1]; ++k) {
        const size_t at = size_t(std::lower_bound(all.begin(), all.end(), offsets[size_t(k)]) - all.begin());
        block_order_[base + kBlockRows * at + r] = order[size_t(k)];
      }
    }
    block_offsets_.insert(block_offsets_.end(), all.begin(), all.end());
    block_starts_.push_back(int32_t(block_offsets_.size()));
    work.push_back(int64_t(all.size()) + 2);
  }
  block_work_ = running(work);
  work.clear();
  // Single rows come in short runs, so that threads can share them out evenly.
  const int32_t longest = std::clamp(rows() / 16, 1, 8);
  for (int32_t r = 0; r < rows(); ++r) {
    if (blocked[size_t(r)]) continue;
    const bool follows = !singles_.empty() && singles_.back().last == r && r - singles_.back().first < longest;
    if (follows) {
      ++singles_.back().last, work.back() += taps(r) + 2;
    } else {
      singles_.push_back({r, r + 1, -1}), work.push_back(taps(r) + 2);
    }
  }
  single_work_ = running(work);
  chunks_ = slabs_ = cut(channel_bytes, kTapsOfChunk);
}

// Rows and channels so few that the gradients of many taps find what they read in the first-level cache.
void ConvRows::find_slabs(int64_t channel_bytes, int32_t rows) {
  Cuts found = cut(channel_bytes, kTapsOfSlab);
  if (found.count > slabs_.count) slabs_ = std::move(found), slab_rows_ = rows;
}

// So many channels at a time that what they are read at stays in the first-level cache, but not so few that fetching
// and storing the sums costs more than that gains.
ConvRows::Cuts ConvRows::cut(int64_t channel_bytes, int64_t least_taps) const {
  int64_t taps = 0, count = 0;
  int32_t all = 0;
  for (const Unit& unit : singles_) {
    taps += starts[size_t(unit.last)] - starts[size_t(unit.first)];
    count += unit.last - unit.first;
  }
  for (int32_t c : channels) all = std::max(all, c + 1);
  const int64_t fitting = std::min<int64_t>(all, (all * channel_bytes + kChunkBytes - 1) / kChunkBytes);
  Cuts made;
  made.count = int32_t(std::max<int64_t>(1, std::min(fitting, count ? taps / count / least_taps : 0)));
  made.at.assign(size_t(rows()) * (size_t(made.count) + 1), 0);
  for (int32_t r = 0; r < rows(); ++r) {
    for (int32_t c = 0; c <= made.count; ++c) {
      const int32_t edge = int32_t(int64_t(all) * c / made.count);
      const auto first = channels.begin() + starts[size_t(r)], last = channels.begin() + starts[size_t(r) + 1];
      made.at[size_t(c) * size_t(rows()) + size_t(r)] = int32_t(std::lower_bound(first, last, edge) - channels.begin());
    }
  }
  return made;
}

void ConvRows::arrange(const float* values, int index, int parts, float* out) const {
  const Range own = share(int64_t(order.size()), index, parts, 16);
  for (int64_t k = own.begin; k < own.end; ++k) out[k] = values[order[size_t(k)]];
  arrange_blocks(values, index, parts, out + order.size());
}

void ConvRows::arrange_blocks(const float* values, int index, int parts, float* out) const {
  const Range blocks = share(int64_t(block_order_.size()), index, parts, 16);
  for (int64_t k = blocks.begin; k < blocks.end; ++k) {
    const int32_t from = block_order_[size_t(k)];
    out[k] = from < 0 ? 0.0f : values[from];
  }
}

Range ConvRows::part_of(const std::vector<int64_t>& work, int index, int parts) const {
  const auto edge = [&](int i) -> int64_t {
    if (i >= parts) return int64_t(work.size()) - 1;
    return std::lower_bound(work.begin(), work.end(), work.back() * i / parts) - work.begin();
  };
  return {edge(index), edge(index + 1)};
}

std::vector<int32_t> ConvRows::rows_of(int index, int parts) const {
  std::vector<int32_t> found;
  if (block_work_.size() > 1) {
    const Range blocks = part_of(block_work_, index, parts);
    found.assign(block_rows_.begin() + kBlockRows * blocks.begin, block_rows_.begin() + kBlockRows * blocks.end);
  }
  if (single_work_.size() > 1) {
    const Range units = part_of(single_work_, index, parts);
    for (int64_t u = units.begin; u < units.end; ++u)
      for (int32_t r = singles_[size_t(u)].first; r < singles_[size_t(u)].last; ++r) found.push_back(r);
  }
  return found;
}

template <class Body>
void ConvRows::each_place(const ConvSweep& s, const Planes& x, const Planes& y, int32_t limit,
                          const std::vector<int64_t>& work, int index, int parts, Body body) const {
  if (work.size() < 2) return;
  const Grouping group = Grouping::of(s, limit);
  const int32_t across = parts_of(s.width, group.positions), down = parts_of(s.height, group.rows);
  const int64_t places = int64_t(parts_of(s.tiles, group.tiles)) * down * across;
  // Few places: threads share the channels instead.
  const bool by_rows = s.by_rows || (places < 4 * parts && places % parts != 0);
  const Range mine = by_rows ? Range{0, places} : share(places, index, parts);
  const Range units = by_rows ? part_of(work, index, parts) : Range{0, int64_t(work.size()) - 1};
  ConvPass pass{};
  pass.y_row = y.channel, pass.y_step = s.y_step;
  for (int64_t place = mine.begin; place < mine.end; ++place) {
    const int32_t t0 = int32_t(place / (int64_t(down) * across)) * group.tiles;
    const int32_t y0 = int32_t(place / across % down) * group.rows;
    const int32_t x0 = int32_t(place % across) * group.positions;
    int groups = 0;
    for (int32_t t = t0; t < std::min(s.tiles, t0 + group.tiles); ++t) {
      for (int32_t r = y0; r < std::min(s.height, y0 + group.rows); ++r, ++groups) {
        pass.x_group[groups] = (t - t0) * x.tile + (r - y0) * s.x_row;
        pass.y_group[groups] = (t - t0) * y.tile + (r - y0) * s.y_row;
      }
    }
    pass.x = x.at + t0 * x.tile + y0 * s.x_row + x0 * s.x_step * 16;
    pass.y = y.at + t0 * y.tile + y0 * s.y_row + x0 * s.y_step;
    body(pass, units, groups, std::min(group.positions, s.width - x0));
  }
}

int64_t ConvRows::groups_of(const ConvSweep& s, int32_t accumulators) {
  const Grouping g = Grouping::of(s, std::min(accumulators, kMostAccumulators));
  return int64_t(s.tiles) * parts_of(s.width, g.positions) * parts_of(s.height, g.rows);
}

void ConvRows::convolve(const ConvKernels& kernels, const float* singles, const float* of_blocks, const float* bias,
                        bool relu, bool add, const Planes& x, const Planes& y, const ConvSweep& sweep, int index, int parts) const {
  const ConvBlocks blocks{block_starts_.data(), block_offsets_.data(), of_blocks, block_rows_.data()};
  const auto complete = [&](ConvPass& pass) {
    pass.offsets = offsets.data(), pass.values = singles;
    pass.bias = bias, pass.relu = relu, pass.add = add;
  };
  each_place(sweep, x, y, kernels.block_accumulators, block_work_, index, parts,
             [&](ConvPass& pass, Range units, int groups, int positions) {
               complete(pass);
               kernels.convolve_blocks(pass, blocks, int32_t(units.begin), int32_t(units.end), groups, positions,
                                       sweep.x_step);
             });
  each_place(sweep, x, y, std::min(kernels.accumulators, kMostAccumulators), single_work_, index, parts,
             [&](ConvPass& pass, Range units, int groups, int positions) {
               complete(pass);
               for (int32_t c = 0; c < chunks_.count; ++c) {
                 pass.starts = chunks_.at.data() + int64_t(c) * rows(), pass.ends = pass.starts + rows();
                 pass.add = add || c > 0, pass.relu = relu && c + 1 == chunks_.count;
                 pass.bias = c ? nullptr : bias;
                 for (int64_t u = units.begin; u < units.end; ++u)
                   kernels.convolve(pass, singles_[size_t(u)].first, singles_[size_t(u)].last, groups, positions,
                                    sweep.x_step);
               }
             });
}

void ConvRows::gradient(const ConvKernels& kernels, const Planes& x, const Planes& dy, const ConvSweep& sweep,
                        int64_t row_bytes, int32_t tiles_at_once, const MadeChannels* made, int index, int parts,
                        float* scratch, float* out) const {
  const Range units = part_of(single_work_, index, parts), blocks = part_of(block_work_, index, parts);
  const Cuts& cuts = made ? chunks_ : slabs_;
  // A block's sums may run over its end, by less than four taps: threads keep their blocks apart.
  const auto place_of = [&](int64_t block) { return 4 * (int64_t(block_starts_[size_t(block)]) + 4 * block); };
  std::fill(scratch + place_of(blocks.begin), scratch + place_of(blocks.end), 0.0f);
  for (int64_t u = units.begin; u < units.end; ++u)
    std::fill(out + starts[size_t(singles_[size_t(u)].first)], out + starts[size_t(singles_[size_t(u)].last)], 0.0f);
  const auto fitting = [&](int64_t bytes) { return int32_t(std::clamp<int64_t>(swept_bytes() / bytes, 1, sweep.height)); };
  const auto piece_at = [&](int32_t t, int32_t y0, int32_t rows, const std::vector<int32_t>& of) {
    return ConvGradient{of.data(), x.at + t * x.tile + y0 * sweep.x_row, nullptr,
                        std::min(tiles_at_once, sweep.tiles - t), std::min(rows, sweep.height - y0), sweep.width,
                        x.tile, sweep.x_row, sweep.x_step * 16, dy.tile, dy.row};
  };
  const auto channel_at = [&](int32_t t, int32_t y0, int64_t channel, int slot) {
    const float* first = made ? made->make(t, int32_t(channel), slot) : dy.at + t * dy.tile + channel * dy.channel;
    return first + y0 * dy.row;
  };
  const int32_t height = made || !slab_rows_ ? fitting(row_bytes / cuts.count) : slab_rows_;
  // So many rows of dy that they are still in the cache when the next chunk asks for them.
  const int64_t together = std::max<int64_t>(1, kRowBytes / (height * sweep.width * int64_t(64) * 8));
  for (int32_t t = 0; t < sweep.tiles; t += tiles_at_once) {
    for (int32_t y0 = 0; y0 < sweep.height; y0 += height) {
      const ConvGradient piece = piece_at(t, y0, height, offsets);
      for (int64_t u0 = units.begin; u0 < units.end; u0 += together) {
        for (int32_t c = 0; c < cuts.count; ++c) {
          const int32_t *from = cuts.at.data() + int64_t(c) * rows(), *to = from + rows();
          for (int64_t u = u0; u < std::min(units.end, u0 + together); ++u) {
            for (int64_t r = singles_[size_t(u)].first; r < singles_[size_t(u)].last; ++r) {
              ConvGradient row = piece;
              row.dy = channel_at(t, y0, r, 0);
              kernels.gradient(row, from[r], to[r], out + from[r]);
            }
          }
        }
      }
    }
    for (int32_t y0 = 0; y0 < sweep.height; y0 += fitting(row_bytes)) {
      const ConvGradient piece = piece_at(t, y0, fitting(row_bytes), block_offsets_);
      for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        const float* of_rows[kBlockRows];
        for (int r = 0; r < kBlockRows; ++r) of_rows[r] = channel_at(t, y0, block_rows_[size_t(4 * b + r)], r);
        kernels.block_gradient(piece, of_rows, block_starts_[size_t(b)], block_starts_[size_t(b) + 1],
                               scratch + place_of(b));
      }
    }
  }
  for (int64_t b = blocks.begin; b < blocks.end; ++b) {
    const float* found = scratch + place_of(b);
    const int64_t first = 4 * int64_t(block_starts_[size_t(b)]), last = 4 * int64_t(block_starts_[size_t(b) + 1]);
    for (int64_t k = first; k < last; ++k) {
      if (block_order_[size_t(k)] >= 0) out[block_order_[size_t(k)]] = found[k - first];
    }
  }
}

}  // namespace secateur
