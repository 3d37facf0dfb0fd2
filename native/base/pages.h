// Memory for large arrays. Where the system offers large pages to those who ask (Linux's "madvise"), they get them: a
// page of 2 MB is mapped once, not 512 times, and found without a walk through tables.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace secateur {

struct FreePages {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Pages = std::unique_ptr<T, FreePages>;

constexpr int64_t kSmallPage = 4096, kLargePage = 1 << 21;

// Asks for large pages where some of them fit into this memory, which nobody has touched yet.
inline void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto at = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (at + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (at + uintptr_t(bytes)) / kLargePage * kLargePage;
  // A hint: nothing depends on what the system makes of it.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// At least `bytes`, rounded up to whole small pages in *bytes; nothing is written there.
template <class T>
Pages<T> new_pages(int64_t* bytes) {
  *bytes = (*bytes / kSmallPage + 1) * kSmallPage;
  const bool large = *bytes >= 2 * kLargePage;
  const int64_t unit = large ? kLargePage : kSmallPage;
  auto* found = static_cast<T*>(std::aligned_alloc(size_t(unit), size_t((*bytes + unit - 1) / unit * unit)));
  if (!found) throw std::bad_alloc();
  if (large) ask_for_large_pages(found, *bytes);
  return Pages<T>(found);
}

}  // namespace secateur
