// Radix selection for Python: shares the inner loops of select_kernel.cpp out over threads.
//
// Python hands over plain addresses of contiguous memory; src/secateur/_radix.py is the only caller and checks
// types, devices and layout before.

#include "select.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace secateur {
namespace {

// Threads take slices of this many scores (1 MiB of float32) as they get free: on a busy machine one thread
// may be much slower than another.
constexpr int64_t slice_size = int64_t{1} << 18;

int this_thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// counts: one row of `digit_values` per thread, added to. Without a prefix (shift at the top) every score counts.
template <class Bits>
void count_digits(const SelectKernels<Bits>& kernels, const Bits* scores, int64_t size, int shift, Bits prefix,
                  int64_t* counts, int threads) {
  const bool first = shift + digit_bits == static_cast<int>(sizeof(Bits) * 8);
  const int64_t slices = (size + slice_size - 1) / slice_size;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (slices > 1 && threads > 1)
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t begin = slice * slice_size;
    const int64_t length = std::min(slice_size, size - begin);
    int64_t* row = counts + this_thread() * digit_values;
    if (first) {
      kernels.count_first_digit(scores + begin, length, row);
    } else {
      kernels.count_next_digit(scores + begin, length, shift, prefix, row);
    }
  }
}

// A large mask is fresh memory, and its page faults would take twice as long as the selection itself.
void ask_for_huge_pages([[maybe_unused]] uint8_t* begin, [[maybe_unused]] int64_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t huge_page = uintptr_t{1} << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + huge_page - 1) / huge_page * huge_page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(size)) / huge_page * huge_page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: may fail
#endif
}

// Fills the mask, keeps the first `keep_ties` of the scores equal to the threshold, and returns how many
// such scores there are.
template <class Bits>
int64_t fill_mask(const SelectKernels<Bits>& kernels, const Bits* scores, int64_t size, Bits threshold,
                  int64_t keep_ties, uint8_t* mask, int threads) {
  ask_for_huge_pages(mask, size);
  const int64_t slices = (size + slice_size - 1) / slice_size;
  std::vector<int64_t> ties(static_cast<size_t>(slices));
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (slices > 1 && threads > 1)
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t begin = slice * slice_size;
    const int64_t length = std::min(slice_size, size - begin);
    ties[slice] = kernels.fill_mask(scores + begin, length, threshold, mask + begin);
  }

  // Lower index first: every slice gets what the slices before it have left of the quota.
  std::vector<int64_t> quota(static_cast<size_t>(slices));
  int64_t total = 0;
  for (int64_t slice = 0; slice < slices; ++slice) {
    quota[slice] = std::max<int64_t>(0, std::min(ties[slice], keep_ties - total));
    total += ties[slice];
  }
  if (total <= keep_ties) return total;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (slices > 1 && threads > 1)
  for (int64_t slice = 0; slice < slices; ++slice) {
    if (quota[slice] == ties[slice]) continue;
    const int64_t begin = slice * slice_size;
    const int64_t length = std::min(slice_size, size - begin);
    kernels.trim_ties(scores + begin, length, threshold, quota[slice], mask + begin);
  }
  return total;
}

template <class Element>
Element* at(uintptr_t address) {
  return reinterpret_cast<Element*>(address);
}

void require_score_width(int bytes) {
  if (bytes != 4 && bytes != 8) throw std::invalid_argument("scores must be float32 (4 bytes) or float64 (8 bytes)");
}

void count_digits_at(uintptr_t scores, int64_t size, int bytes, int shift, uint64_t prefix, uintptr_t counts,
                     int threads) {
  require_score_width(bytes);
  if (bytes == 4) {
    count_digits(SECATEUR_TABLE(select_float32), at<const uint32_t>(scores), size, shift,
                 static_cast<uint32_t>(prefix), at<int64_t>(counts), threads);
  } else {
    count_digits(SECATEUR_TABLE(select_float64), at<const uint64_t>(scores), size, shift, prefix,
                 at<int64_t>(counts), threads);
  }
}

int64_t fill_mask_at(uintptr_t scores, int64_t size, int bytes, uint64_t threshold, int64_t keep_ties,
                     uintptr_t mask, int threads) {
  require_score_width(bytes);
  if (bytes == 4) {
    return fill_mask(SECATEUR_TABLE(select_float32), at<const uint32_t>(scores), size,
                     static_cast<uint32_t>(threshold), keep_ties, at<uint8_t>(mask), threads);
  }
  return fill_mask(SECATEUR_TABLE(select_float64), at<const uint64_t>(scores), size, threshold, keep_ties,
                   at<uint8_t>(mask), threads);
}

}  // namespace

void bind_select(nanobind::module_& module) {
  using nanobind::arg;
  using release_gil = nanobind::call_guard<nanobind::gil_scoped_release>;
  module.def("count_digits", &count_digits_at, release_gil(), arg("scores"), arg("size"), arg("bytes"),
             arg("shift"), arg("prefix"), arg("counts"), arg("threads"),
             "Add the 16-bit digit at `shift` of every key whose higher digits are `prefix` to counts[thread, digit].");
  module.def("fill_mask", &fill_mask_at, release_gil(), arg("scores"), arg("size"), arg("bytes"),
             arg("threshold"), arg("keep_ties"), arg("mask"), arg("threads"),
             "Write mask = key >= threshold with only the first `keep_ties` ties; return how many ties there are.");
}

}  // namespace secateur
