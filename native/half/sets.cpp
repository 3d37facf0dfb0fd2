#include "half/sets.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "base/extensions.h"

namespace secateur::half {
namespace {

enum Set { kFloat, kPairs, kTiles };

Set most() {
  static const Set found = has_tiles() ? kTiles : has_pairs() ? kPairs : kFloat;
  return current_isa() == Isa::avx512 ? found : kFloat;
}

Kernels kernels_of(Set set) {
  Kernels kernels = SECATEUR_TABLE(half_kernels);
#if defined(SECATEUR_HAVE_AVX512_BF16)
  if (set >= kPairs) kernels = with_pairs(kernels);
#endif
#if defined(SECATEUR_HAVE_AMX)
  if (set >= kTiles) kernels = with_tiles(kernels);
#endif
  return kernels;
}

// Seconds of a product of a few blocks, at best of several.
double seconds_of(const Kernels& kernels) {
  constexpr int kBlocks = 8;
  std::vector<uint64_t> left(size_t(kBlocks * kernels.block_bytes / 8)), right(left.size());
  std::vector<float> sums(kBlock);
  std::array<int32_t, kBlocks> which{};
  std::iota(which.begin(), which.end(), 0);
  double best = 1.0;
  for (int trial = 0; trial < 9; ++trial) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 8; ++i)
      kernels.multiply(left.data(), which.data(), right.data(), which.data(), kBlocks, kSide, kSide, i > 0, sums.data());
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

// On some processors vdpbf16ps takes two cycles, and float32 is faster; on others it is the other way round.
Set fastest() {
  if (most() != kPairs) return most();
  static const Set found = seconds_of(kernels_of(kPairs)) < seconds_of(kernels_of(kFloat)) ? kPairs : kFloat;
  return found;
}

std::string name_of(Set set) { return set == kTiles ? "amx" : set == kPairs ? "avx512_bf16" : isa_name(current_isa()); }

std::mutex guard;
int wanted = -1;  // a Set, or the machine's choice

Set current() {
  const std::lock_guard<std::mutex> lock(guard);
  return wanted < 0 ? fastest() : std::min(Set(wanted), most());
}

}  // namespace

std::vector<std::string> supported_sets() {
  std::vector<std::string> found;
  for (Set set : {kFloat, kPairs, kTiles}) {
    if (set <= most()) found.push_back(name_of(set));
  }
  return found;
}

std::string current_set() { return name_of(current()); }

const Kernels& current_kernels() {
  thread_local Kernels kernels;
  thread_local int made_for = -1;
  const Set set = current();
  const int key = 4 * int(current_isa()) + int(set);
  if (made_for != key) kernels = kernels_of(set), made_for = key;
  return kernels;
}

void use_set(const std::string& name) {
  std::string known;
  for (Set set : {kFloat, kPairs, kTiles}) {
    if (set > most()) break;
    if (name == name_of(set)) {
      const std::lock_guard<std::mutex> lock(guard);
      wanted = set;
      return;
    }
    known += (known.empty() ? "" : ", ") + name_of(set);
  }
  if (!name.empty()) throw std::invalid_argument("the set for bfloat16 must be one of " + known + " on this machine, got '" + name + "'");
  const std::lock_guard<std::mutex> lock(guard);
  wanted = -1;
}

}  // namespace secateur::half
