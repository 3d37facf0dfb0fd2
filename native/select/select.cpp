// Radix selection for Python: shares the inner loops of select_kernel.cpp out over threads.
//
// Python hands over lists of plain addresses of contiguous memory; src/secateur/selection/_radix.py is the only caller and checks
// types, devices and layout before; that there is memory for everything is checked here.

#include "select/select.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace secateur {
namespace {

// Threads take slices of this many scores (1 MiB of float32) as they get free: on a busy machine one thread
// may be much slower than another. One parallel loop runs over the slices of all tensors, because at the end of
// each loop the threads wait for the slowest.
constexpr int64_t slice_size = int64_t{1} << 18;

struct Slice {
  size_t tensor;
  int64_t begin;
  int64_t size;
};

std::vector<Slice> slices_of(const std::vector<int64_t>& sizes) {
  std::vector<Slice> slices;
  for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
    for (int64_t begin = 0; begin < sizes[tensor]; begin += slice_size) {
      slices.push_back({tensor, begin, std::min(slice_size, sizes[tensor] - begin)});
    }
  }
  return slices;
}

int this_thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

template <class Element>
Element* at(uintptr_t address) {
  return reinterpret_cast<Element*>(address);
}

// counts: one row of `digit_values` per thread, added to. The prefix does not matter for the top digit.
template <class Bits>
void count_digits(const SelectKernels<Bits>& kernels, const std::vector<uintptr_t>& scores,
                  const std::vector<int64_t>& sizes, int shift, Bits prefix, int64_t* counts, int threads) {
  const bool top_digit = shift + digit_bits == static_cast<int>(sizeof(Bits) * 8);
  const std::vector<Slice> slices = slices_of(sizes);
  const int64_t count = static_cast<int64_t>(slices.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) {
    const Slice slice = slices[i];
    const Bits* first = at<const Bits>(scores[slice.tensor]) + slice.begin;
    int64_t* row = counts + this_thread() * digit_values;
    if (top_digit) {
      kernels.count_first_digit(first, slice.size, row);
    } else {
      kernels.count_next_digit(first, slice.size, shift, prefix, row);
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
    kernels.trim_ties(at<const Bits>(scores[slice.tensor]) + slice.begin, slice.size, threshold, quota[i],
                      at<uint8_t>(masks[slice.tensor]) + slice.begin);
  }
  return total;
}

void require(bool condition, const char* sentence) {
  if (!condition) throw std::invalid_argument(sentence);
}

void require_tensors(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int bytes, int threads) {
  require(bytes == 4 || bytes == 8, "scores must be float32 (4 bytes) or float64 (8 bytes)");
  require(scores.size() == sizes.size(), "every tensor needs an address and a size");
  require(threads >= 1, "a pass needs at least one thread");
  for (size_t i = 0; i < sizes.size(); ++i)
    require(sizes[i] >= 0 && (scores[i] || !sizes[i]), "every tensor needs memory of its size");
}

// One row of counts for each thread.
using Counts = nanobind::ndarray<int64_t, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

void count_digits_at(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int bytes, int shift,
                     uint64_t prefix, Counts counts) {
  const int threads = int(counts.shape(0));
  require_tensors(scores, sizes, bytes, threads);
  require(counts.shape(1) == size_t(digit_values), "each row of counts has a place for every digit");
  require(shift >= 0 && shift <= 8 * bytes - digit_bits, "the digit must lie inside the key");
  nanobind::gil_scoped_release release;
  if (bytes == 4) {
    count_digits(SECATEUR_TABLE(select_float32), scores, sizes, shift, static_cast<uint32_t>(prefix), counts.data(),
                 threads);
  } else {
    count_digits(SECATEUR_TABLE(select_float64), scores, sizes, shift, prefix, counts.data(), threads);
  }
}

int64_t fill_masks_at(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int bytes,
                      uint64_t threshold, int64_t keep_ties, const std::vector<uintptr_t>& masks,
                      const std::vector<int64_t>& mask_sizes, int threads) {
  require_tensors(scores, sizes, bytes, threads);
  require_tensors(masks, mask_sizes, bytes, threads);
  require(mask_sizes == sizes, "every tensor needs a mask of its size");
  if (bytes == 4) {
    return fill_masks(SECATEUR_TABLE(select_float32), scores, sizes, static_cast<uint32_t>(threshold), keep_ties,
                      masks, threads);
  }
  return fill_masks(SECATEUR_TABLE(select_float64), scores, sizes, threshold, keep_ties, masks, threads);
}

}  // namespace

void bind_select(nanobind::module_& module) {
  using nanobind::arg;
  using release_gil = nanobind::call_guard<nanobind::gil_scoped_release>;
  module.def("count_digits", &count_digits_at, arg("scores"), arg("sizes"), arg("bytes"),
             arg("shift"), arg("prefix"), arg("counts").noconvert(),
             "Add the 16-bit digit at `shift` of every key whose higher digits are `prefix` to counts[thread, digit].");
  module.def("fill_masks", &fill_masks_at, release_gil(), arg("scores"), arg("sizes"), arg("bytes"),
             arg("threshold"), arg("keep_ties"), arg("masks"), arg("mask_sizes"), arg("threads"),
             "Write mask = key >= threshold with only the first `keep_ties` ties; return how many ties there are.");
}

}  // namespace secateur
