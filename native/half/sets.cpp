#include "half/sets.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>
#include <numeric>
#include <stdexcept>

#if defined(SECATEUR_HAVE_AVX512_BF16) || defined(SECATEUR_HAVE_AMX)
#include <cpuid.h>
#endif
#if defined(SECATEUR_HAVE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace secateur::half {
namespace {

enum Set { kFloat, kPairs, kTiles };

#if defined(SECATEUR_HAVE_AVX512_BF16)
bool bit(unsigned word, int number) { return word >> number & 1; }

// Registers a b c d of cpuid's leaf 7.
std::array<unsigned, 4> leaf7(unsigned part) {
  std::array<unsigned, 4> r{};
  if (!__get_cpuid_count(7, part, &r[0], &r[1], &r[2], &r[3])) r.fill(0);
  return r;
}

bool find_pairs() {
  const auto base = leaf7(0);
  const bool vbmi2 = bit(base[2], 6), bf16 = base[0] >= 1 && bit(leaf7(1)[0], 5);
  // The wide registers' state is saved: __builtin_cpu_supports has looked.
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && vbmi2 && bf16;
}
#else
bool find_pairs() { return false; }
#endif

#if defined(SECATEUR_HAVE_AMX)
__attribute__((target("xsave"))) uint64_t saved_state() { return __builtin_ia32_xgetbv(0); }

bool find_tiles() {
  const unsigned d = leaf7(0)[3];
  if (!has_pairs() || !bit(d, 22) || !bit(d, 24) || (saved_state() & 0x60000) != 0x60000) return false;
  // Linux keeps the 8 KiB of tile state from a process until it asks.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool find_tiles() { return false; }
#endif

}  // namespace

bool has_pairs() {
  static const bool found = find_pairs();
  return found;
}

bool has_tiles() {
  static const bool found = find_tiles();
  return found;
}

#if defined(SECATEUR_HAVE_AVX512_BF16)
bool has_leaf7(int word, int number) { return bit(leaf7(0)[size_t(word)], number); }
#else
bool has_leaf7(int, int) { return false; }
#endif

namespace {

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
