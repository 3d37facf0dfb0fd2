// Radix selection for Python: shares the inner loops of select_kernel.cpp out over threads.
//
// Python hands over lists of plain addresses of contiguous memory; src/secateur/selection/_radix.py is the only caller and checks
// types, devices and layout before; that there is memory for everything is checked here.

#include "select/select.h"
#include "select/passes.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include "base/addresses.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace secateur {
namespace {

int this_thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
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
