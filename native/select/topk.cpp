// The `keep` largest of many scores in one pass over them.
//
// A sample of the keys says between which two of them, `low` and `high`, the threshold lies. The pass writes
// mask = key > high and collects the candidates, low < key ≤ high: a hundredth of the scores or less. Those that are
// kept among them are found by ranking them alone. Counting proves it: if fewer than `keep` keys are above `high`, and
// at least `keep` are above `low`, the threshold is a candidate.
//
// Where many scores are equal (zeros, above all), `low` is likely to be their key, and may be the threshold itself:
// then a second pass keeps the first of them. If the sample was wrong, or candidates would be many, nothing has been
// decided, and the caller counts digits instead.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <utility>

#include <nanobind/stl/pair.h>

#include "base/addresses.h"
#include "select/select.h"
#include "select/passes.h"

namespace secateur {
namespace {

constexpr int64_t few_scores = 2048;          // of so few all are candidates
constexpr int64_t most_candidates = 1 << 20;  // this bounds the memory of a selection
constexpr double most_of_sample = 1.0 / 16;   // more candidates than this cost more than counting digits
constexpr int64_t run_length = 4;             // scores are sampled in runs: a run costs one miss of the cache
constexpr double deviations = 3;              // how far the sample may be off

// Whether the masks are written, and the key of the last score kept.
using Outcome = std::pair<bool, uint64_t>;
constexpr Outcome undecided = {false, 0};

template <class Bits>
struct Bracket {
  Bits low, high;  // the first is outside
};

// The keys of a short run of scores from a random place in each of `runs` equal stretches of all scores.
template <class Bits>
std::vector<Bits> sample(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int64_t total,
                         int64_t runs) {
  std::vector<Bits> keys;
  keys.reserve(size_t(runs * run_length));
  const auto stretch = static_cast<uint32_t>(std::min<int64_t>(total / runs, UINT32_MAX));
  uint64_t state = 0x9E3779B97F4A7C15u;
  size_t tensor = 0;
  int64_t begin = 0;  // of this tensor, among all scores
  for (int64_t run = 0; run < runs; ++run) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const int64_t place = total / runs * run + int64_t((state >> 32) * stretch >> 32);
    while (place >= begin + sizes[tensor]) begin += sizes[tensor++];
    const Bits* first = at<const Bits>(scores[tensor]) + (place - begin);
    const int64_t length = std::min(run_length, sizes[tensor] - (place - begin));
    for (int64_t i = 0; i < length; ++i) keys.push_back(key_of(first[i]));
  }
  return keys;
}

// False: too many scores would be candidates.
template <class Bits>
bool find_bracket(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int64_t total, int64_t keep,
                  Bracket<Bits>& bracket) {
  bracket = {0, static_cast<Bits>(~Bits{0})};
  if (total <= few_scores) return true;
  const int64_t runs = std::clamp<int64_t>(total / 512, few_scores / run_length, 1 << 14);
  std::vector<Bits> keys = sample<Bits>(scores, sizes, total, runs);
  const auto count = static_cast<int64_t>(keys.size());
  const double share = double(keep) / double(total);
  // Neighbours are alike: a run tells about as much as half as many scores drawn one by one.
  const double margin = 1 + deviations * std::sqrt(2 * double(count) * share * (1 - share));
  const auto last = int64_t(std::ceil(share * double(count) + margin));  // ranks from the top
  const auto first = int64_t(std::floor(share * double(count) - margin));
  auto end = keys.end();
  if (last < count) {
    end = keys.begin() + last;
    std::nth_element(keys.begin(), end, keys.end(), std::greater<>());
    bracket.low = *end;
  }
  if (first >= 0) {
    std::nth_element(keys.begin(), keys.begin() + first, end, std::greater<>());
    bracket.high = keys[size_t(first)];
  }
  const auto inside = std::count_if(keys.begin(), keys.end(),
                                    [&](Bits key) { return key > bracket.low && key <= bracket.high; });
  const double expected = double(inside) / double(count);
  return expected <= most_of_sample && expected * double(total) <= double(most_candidates);
}

// What the pass over one slice found.
template <class Bits>
struct Found {
  std::vector<Candidate<Bits>> candidates;
  SplitCounts<Bits> counts;
};

template <class Bits>
void split_slice(const SelectKernels<Bits>& kernels, const Bits* scores, int64_t size, Bracket<Bits> bracket,
                 uint8_t* mask, Found<Bits>& found) {
  Candidate<Bits> here[split_size];
  for (int64_t begin = 0; begin < size; begin += split_size) {
    const int64_t length = std::min(split_size, size - begin);
    const int64_t count =
        kernels.split(scores + begin, length, bracket.low, bracket.high, mask + begin, here, &found.counts);
    for (int64_t i = 0; i < count; ++i) here[i].place += static_cast<Bits>(begin);
    found.candidates.insert(found.candidates.end(), here, here + count);
  }
}

// The `need`-th largest key of the candidates, and how many of those equal to it are needed.
template <class Bits>
std::pair<Bits, int64_t> last_kept(const std::vector<Found<Bits>>& found, Bracket<Bits> bracket, int64_t need) {
  // Count them in equal steps of the bracket first, so that only one step must be ranked.
  constexpr int bits = 12;
  int shift = 0;
  while (shift + bits < int(sizeof(Bits) * 8) && (bracket.high - bracket.low) >> (shift + bits) != 0) ++shift;
  std::vector<int64_t> counts(size_t{1} << bits);
  for (const auto& one : found) {
    for (const auto& candidate : one.candidates) ++counts[size_t((candidate.key - bracket.low) >> shift)];
  }
  size_t step = counts.size() - 1;
  for (; counts[step] < need; --step) need -= counts[step];
  std::vector<Bits> keys;
  for (const auto& one : found) {
    for (const auto& candidate : one.candidates) {
      if (size_t((candidate.key - bracket.low) >> shift) == step) keys.push_back(candidate.key);
    }
  }
  const auto last = keys.begin() + (need - 1);
  std::nth_element(keys.begin(), last, keys.end(), std::greater<>());
  const Bits threshold = *last;
  return {threshold, need - std::count_if(keys.begin(), last, [&](Bits key) { return key > threshold; })};
}

// Sets the mask of the `need` largest candidates, the first of equal ones; returns the key of the last one.
template <class Bits>
Bits keep_best(const std::vector<Found<Bits>>& found, Bracket<Bits> bracket, int64_t need,
               const std::vector<Slice>& slices, const std::vector<uintptr_t>& masks) {
  auto [threshold, ties] = last_kept(found, bracket, need);
  for (size_t i = 0; i < slices.size(); ++i) {
    uint8_t* mask = at<uint8_t>(masks[slices[i].tensor]) + slices[i].begin;
    for (const auto& candidate : found[i].candidates) {
      mask[candidate.place] = candidate.key > threshold;
      if (candidate.key == threshold && ties > 0) {
        mask[candidate.place] = 1;
        --ties;
      }
    }
  }
  return threshold;
}

template <class Bits>
Outcome topk(const SelectKernels<Bits>& kernels, const std::vector<uintptr_t>& scores,
             const std::vector<int64_t>& sizes, int64_t keep, const std::vector<uintptr_t>& masks, int threads) {
  int64_t total = 0;
  for (int64_t size : sizes) total += size;
  Bracket<Bits> bracket;
  if (keep < 1 || keep > total || !find_bracket(scores, sizes, total, keep, bracket)) return undecided;
  for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
    ask_for_huge_pages(at<uint8_t>(masks[tensor]), sizes[tensor]);
  }

  const std::vector<Slice> slices = slices_of(sizes);
  const auto count = static_cast<int64_t>(slices.size());
  std::vector<Found<Bits>> found(slices.size());
  std::atomic<int64_t> candidates{0};
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) {
    if (candidates > most_candidates) continue;
    const Slice slice = slices[size_t(i)];
    split_slice(kernels, at<const Bits>(scores[slice.tensor]) + slice.begin, slice.size, bracket,
                at<uint8_t>(masks[slice.tensor]) + slice.begin, found[size_t(i)]);
    candidates += static_cast<int64_t>(found[size_t(i)].candidates.size());
  }

  constexpr Bits infinity = sizeof(Bits) == 4 ? Bits{0x7F800000u} : static_cast<Bits>(0x7FF0000000000000u);
  int64_t above = 0;
  Bits largest = 0;
  for (const auto& one : found) {
    above += one.counts.above;
    largest = std::max(largest, one.counts.largest);
  }
  if (candidates > most_candidates || largest >= infinity || above >= keep) return undecided;
  if (const int64_t need = keep - above - candidates; need > 0) {
    const int64_t equal = fill_masks(kernels, scores, sizes, bracket.low, need, masks, threads);
    return equal >= need ? Outcome{true, bracket.low} : undecided;
  }
  return {true, keep_best(found, bracket, keep - above, slices, masks)};
}

void require(bool condition, const char* sentence) {
  if (!condition) throw std::invalid_argument(sentence);
}

Outcome topk_at(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int bytes, int64_t keep,
                const std::vector<uintptr_t>& masks, const std::vector<int64_t>& mask_sizes, int threads) {
  require(bytes == 4 || bytes == 8, "scores must be float32 (4 bytes) or float64 (8 bytes)");
  require(scores.size() == sizes.size(), "every tensor needs an address and a size");
  require(masks.size() == sizes.size() && mask_sizes == sizes, "every tensor needs a mask of its size");
  require(threads >= 1, "a pass needs at least one thread");
  for (size_t i = 0; i < sizes.size(); ++i) {
    require(sizes[i] >= 0 && ((scores[i] && masks[i]) || !sizes[i]), "every tensor needs memory of its size");
  }
  if (bytes == 4) return topk(SECATEUR_TABLE(select_float32), scores, sizes, keep, masks, threads);
  return topk(SECATEUR_TABLE(select_float64), scores, sizes, keep, masks, threads);
}

}  // namespace

void bind_topk(nanobind::module_& module) {
  using nanobind::arg;
  module.def("topk", &topk_at, nanobind::call_guard<nanobind::gil_scoped_release>(), arg("scores"), arg("sizes"),
             arg("bytes"), arg("keep"), arg("masks"), arg("mask_sizes"), arg("threads"),
             "Write the masks of the `keep` largest scores and return (True, key of the last one kept), or (False, 0) "
             "if nothing is decided: many scores tie, or one is NaN or infinite.");
}

}  // namespace secateur
