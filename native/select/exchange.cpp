// An exchange of units in every layer at once: the weakest of the living go, and as many of the strongest dead come.
//
// Scores are compared by their keys (select.h), equal ones by place: the lower one is stronger. Who goes is ranked
// among the living alone, a few per cent of all. Of those that could come only the ones above a sampled key are
// ranked; where too few are above it, or a score is NaN or infinite, nothing is decided, and the caller goes its own way.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "base/addresses.h"
#include "select/select.h"

namespace secateur {
namespace {

constexpr int64_t block = 8;         // scores that are looked at together
constexpr int64_t samples = 4096;   // of each layer
constexpr int64_t few = 1 << 14;    // scores of which all may be ranked
constexpr uint32_t exponent = 0x7F800000u;

struct Layer {
  const uint32_t* scores;  // of the living
  const uint32_t* growth;  // of those that may come
  const uint8_t* alive;
  uint8_t* kept;  // the result
  int64_t size, moved;
};

// Key and place in one number: the larger, the stronger.
uint64_t ranked(uint32_t bits, int64_t place) { return uint64_t{key_of(bits)} << 32 | (UINT32_MAX - uint32_t(place)); }

int64_t place_of(uint64_t rank) { return int64_t(UINT32_MAX - uint32_t(rank)); }

// The key as a signed number, which vectors compare.
int32_t signed_key(uint32_t bits) {
  const uint32_t canonical = bits == 0x80000000u ? 0 : bits;
  return int32_t(canonical ^ (uint32_t(int32_t(canonical) >> 31) & 0x7FFFFFFFu));
}

// Ranks that are collected without a branch for each: one that is not wanted is written over by the next.
class Ranks {
 public:
  explicit Ranks(int64_t expected) : ranks_(size_t(expected + block)) {}

  // Room for a block more.
  void room() {
    if (count_ + block > int64_t(ranks_.size())) ranks_.resize(2 * ranks_.size());
  }
  void add(uint64_t rank, bool wanted) {
    ranks_[size_t(count_)] = rank;
    count_ += wanted;
  }
  int64_t count() const { return count_; }

  // Calls `see` with the places of the first `some` in this order.
  template <class Order, class See>
  void first(int64_t some, Order order, See&& see) {
    const auto last = ranks_.begin() + some, end = ranks_.begin() + count_;
    if (last != end) std::nth_element(ranks_.begin(), last, end, order);
    for (auto it = ranks_.begin(); it != last; ++it) see(place_of(*it));
  }

 private:
  std::vector<uint64_t> ranks_;
  int64_t count_ = 0;
};

// kept = alive without the weakest. False: a score is not finite.
bool drop(const Layer& layer) {
  Ranks living(layer.size / 16);
  bool bad = false;
  const auto see = [&](int64_t begin, int64_t length) {
    living.room();
    for (int64_t i = begin; i < begin + length; ++i) {
      const bool here = layer.alive[i];
      bad |= here & ((layer.scores[i] & exponent) == exponent);
      living.add(ranked(layer.scores[i], i), here);
    }
  };
  int64_t begin = 0;
  for (; begin + block <= layer.size; begin += block) {
    uint64_t flags;
    static_assert(sizeof flags == block);
    std::memcpy(&flags, layer.alive + begin, block);
    if (flags) see(begin, block);  // few live
  }
  see(begin, layer.size - begin);
  if (bad || living.count() < layer.moved) return false;
  std::copy(layer.alive, layer.alive + layer.size, layer.kept);
  living.first(layer.moved, std::less<>(), [&](int64_t place) { layer.kept[place] = 0; });
  return true;
}

// A key that more than enough of those that may come are above, by a sample of them.
int32_t bound(const Layer& layer, const uint8_t* taken) {
  if (layer.size <= few) return INT32_MIN;
  const int64_t stride = (layer.size / samples) | 1;  // odd: columns of a matrix are alike
  std::vector<int32_t> keys;
  for (int64_t i = 0; i < layer.size; i += stride) {
    if (!taken[i]) keys.push_back(signed_key(layer.growth[i]));
  }
  const int64_t wanted = (layer.moved + stride - 1) / stride;
  const auto rank = wanted + int64_t(4 * std::sqrt(double(wanted))) + 8;  // what chance may do
  if (rank >= int64_t(keys.size())) return INT32_MIN;
  std::nth_element(keys.begin(), keys.begin() + rank, keys.end(), std::greater<>());
  return keys[size_t(rank)];
}

// Whether one of a block's scores is above the bound, or not finite: a loop of fixed length, of which the compiler
// makes vectors.
inline bool of_interest(const uint32_t* growth, int32_t low) {
  int32_t found = 0;
  for (int64_t i = 0; i < block; ++i) {
    const int32_t above = -int32_t(signed_key(growth[i]) > low);
    const int32_t odd = -int32_t((growth[i] & exponent) == exponent);
    found |= above | odd;
  }
  return found;
}

// Collects the ranks of a block that are above the bound and not taken; returns whether all of them are finite.
bool look(const Layer& layer, const uint8_t* taken, int64_t begin, int64_t length, int32_t low, Ranks& found) {
  found.room();
  bool finite = true;
  for (int64_t i = begin; i < begin + length; ++i) {
    const bool free = !taken[i];
    finite &= !free | ((layer.growth[i] & exponent) != exponent);
    found.add(ranked(layer.growth[i], i), free & (signed_key(layer.growth[i]) > low));
  }
  return finite;
}

// Adds the strongest of those that may come to `kept`. False: too few are above the bound, or a score is not finite.
bool grow(const Layer& layer, const uint8_t* taken) {
  const int32_t low = bound(layer, taken);
  Ranks found(2 * layer.moved);
  bool finite = true;
  int64_t begin = 0;
  for (; begin + block <= layer.size; begin += block) {
    if (of_interest(layer.growth + begin, low)) finite &= look(layer, taken, begin, block, low, found);
  }
  finite &= look(layer, taken, begin, layer.size - begin, low, found);
  if (!finite || found.count() < layer.moved) return false;
  found.first(layer.moved, std::greater<>(), [&](int64_t place) { layer.kept[place] = 1; });
  return true;
}

bool exchange(const Layer& layer, bool just_dropped) {
  if (!layer.moved) {
    std::copy(layer.alive, layer.alive + layer.size, layer.kept);
    return true;
  }
  return drop(layer) && grow(layer, just_dropped ? layer.kept : layer.alive);
}

bool exchange_at(const std::vector<uintptr_t>& scores, const std::vector<uintptr_t>& growth,
                 const std::vector<uintptr_t>& alive, const std::vector<uintptr_t>& kept,
                 const std::vector<int64_t>& sizes, const std::vector<int64_t>& moved, bool just_dropped,
                 [[maybe_unused]] int threads) {
  const size_t count = sizes.size();
  const bool complete = scores.size() == count && growth.size() == count && alive.size() == count &&
                        kept.size() == count && moved.size() == count;
  if (!complete) throw std::invalid_argument("every layer needs scores, growth, flags, a result and a number");
  std::vector<Layer> layers;
  for (size_t i = 0; i < count; ++i) {
    const bool there = scores[i] && growth[i] && alive[i] && kept[i];
    if (sizes[i] < 0 || sizes[i] > int64_t{UINT32_MAX} || (sizes[i] && !there))
      throw std::invalid_argument("every layer needs memory of its size, of less than 2^32 scores");
    if (moved[i] < 0 || moved[i] > sizes[i]) throw std::invalid_argument("no more can move than there are");
    layers.push_back({at<const uint32_t>(scores[i]), at<const uint32_t>(growth[i]), at<const uint8_t>(alive[i]),
                      at<uint8_t>(kept[i]), sizes[i], moved[i]});
  }
  std::atomic<bool> decided{true};
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < int64_t(count); ++i) {
    if (!exchange(layers[size_t(i)], just_dropped)) decided = false;
  }
  return decided;
}

}  // namespace

void bind_exchange(nanobind::module_& module) {
  using nanobind::arg;
  module.def("exchange", &exchange_at, nanobind::call_guard<nanobind::gil_scoped_release>(), arg("scores"),
             arg("growth"), arg("alive"), arg("kept"), arg("sizes"), arg("moved"), arg("just_dropped"), arg("threads"),
             "Write, for each layer, `alive` without its `moved` lowest `scores` and with the `moved` highest `growth` "
             "of the others, float32 all; of equal ones the lower place is higher. False: nothing is decided, since a "
             "score is NaN or infinite, or too many tie.");
}

}  // namespace secateur
