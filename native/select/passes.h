// What the ways to select share: how tensors are cut into slices for threads, and the pass that fills masks.
//
// Not for kernel files (see isa.h).

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/addresses.h"
#include "select/select.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace secateur {

// Threads take slices of this many scores (1 MiB of float32) as they get free: on a busy machine one thread
// may be much slower than another. One parallel loop runs over the slices of all tensors, because at the end of
// each loop the threads wait for the slowest.
constexpr int64_t slice_size = int64_t{1} << 18;

struct Slice {
  size_t tensor;
  int64_t begin;
  int64_t size;
};

inline std::vector<Slice> slices_of(const std::vector<int64_t>& sizes) {
  std::vector<Slice> slices;
  for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
    for (int64_t begin = 0; begin < sizes[tensor]; begin += slice_size) {
      slices.push_back({tensor, begin, std::min(slice_size, sizes[tensor] - begin)});
    }
  }
  return slices;
}

// A large mask is fresh memory, and its page faults would take twice as long as the selection itself.
inline void ask_for_huge_pages([[maybe_unused]] uint8_t* begin, [[maybe_unused]] int64_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t huge_page = uintptr_t{1} << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + huge_page - 1) / huge_page * huge_page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(size)) / huge_page * huge_page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: may fail
#endif
}

// Fills the masks, keeps the first `keep_ties` of the scores equal to the threshold, and returns how many
// such scores there are.
template <class Bits>
int64_t fill_masks(const SelectKernels<Bits>& kernels, const std::vector<uintptr_t>& scores,
                   const std::vector<int64_t>& sizes, Bits threshold, int64_t keep_ties,
                   const std::vector<uintptr_t>& masks, int threads) {
  for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
    ask_for_huge_pages(at<uint8_t>(masks[tensor]), sizes[tensor]);
  }
  const std::vector<Slice> slices = slices_of(sizes);
  const int64_t count = static_cast<int64_t>(slices.size());
  std::vector<int64_t> ties(slices.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) {
    const Slice slice = slices[i];
    ties[i] = kernels.fill_mask(at<const Bits>(scores[slice.tensor]) + slice.begin, slice.size, threshold,
                                at<uint8_t>(masks[slice.tensor]) + slice.begin);
  }

  // Lower index first: every slice gets what the slices before it have left of the quota.
  std::vector<int64_t> quota(slices.size());
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    quota[i] = std::max<int64_t>(0, std::min(ties[i], keep_ties - total));
    total += ties[i];
  }
  if (total <= keep_ties) return total;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) {
    if (quota[i] == ties[i]) continue;
    const Slice slice = slices[i];
    const Bits* here = at<const Bits>(scores[slice.tensor]) + slice.begin;
    uint8_t* mask = at<uint8_t>(masks[slice.tensor]) + slice.begin;
    if (quota[i] == 0) {  // all slices but one: there is a key above this one, for not all ties are kept
      kernels.fill_mask(here, slice.size, threshold + 1, mask);
    } else {
      kernels.trim_ties(here, slice.size, threshold, quota[i], mask);
    }
  }
  return total;
}

}  // namespace secateur
