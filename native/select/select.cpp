// Radix selection for Python: shares the inner loops of select_kernel.cpp out over threads.
//
// Python hands over lists of plain addresses of contiguous memory; src/secateur/selection/_radix.py is the only caller and checks
// types, devices and layout before.

#include "select/select.h"
#include "select/passes.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

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

void require_tensors(size_t scores, size_t sizes, int bytes) {
  require(bytes == 4 || bytes == 8, "scores must be float32 (4 bytes) or float64 (8 bytes)");
  require(scores == sizes, "every tensor needs an address and a size");
}

void count_digits_at(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int bytes, int shift,
                     uint64_t prefix, uintptr_t counts, int threads) {
  require_tensors(scores.size(), sizes.size(), bytes);
  if (bytes == 4) {
    count_digits(SECATEUR_TABLE(select_float32), scores, sizes, shift, static_cast<uint32_t>(prefix),
                 at<int64_t>(counts), threads);
  } else {
    count_digits(SECATEUR_TABLE(select_float64), scores, sizes, shift, prefix, at<int64_t>(counts), threads);
  }
}

int64_t fill_masks_at(const std::vector<uintptr_t>& scores, const std::vector<int64_t>& sizes, int bytes,
                      uint64_t threshold, int64_t keep_ties, const std::vector<uintptr_t>& masks, int threads) {
  require_tensors(scores.size(), sizes.size(), bytes);
  require(masks.size() == sizes.size(), "every tensor needs a mask");
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
  module.def("count_digits", &count_digits_at, release_gil(), arg("scores"), arg("sizes"), arg("bytes"),
             arg("shift"), arg("prefix"), arg("counts"), arg("threads"),
             "Add the 16-bit digit at `shift` of every key whose higher digits are `prefix` to counts[thread, digit].");
  module.def("fill_masks", &fill_masks_at, release_gil(), arg("scores"), arg("sizes"), arg("bytes"),
             arg("threshold"), arg("keep_ties"), arg("masks"), arg("threads"),
             "Write mask = key >= threshold with only the first `keep_ties` ties; return how many ties there are.");
}

}  // namespace secateur
