#include "base/extensions.h"

#include <array>
#include <cstdint>

#if defined(SECATEUR_HAVE_AVX512_BF16) || defined(SECATEUR_HAVE_AMX)
#include <cpuid.h>
#endif
#if defined(SECATEUR_HAVE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace secateur {
namespace {

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

}  // namespace secateur
