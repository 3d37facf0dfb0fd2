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

// At least `bytes`, rounded up to whole small pages in *bytes; nothing is written there.
template <class T>
Pages<T> new_pages(int64_t* bytes) {
  constexpr int64_t kSmall = 4096, kLarge = 1 << 21;
  *bytes = (*bytes / kSmall + 1) * kSmall;
  const bool large = *bytes >= 2 * kLarge;
  const int64_t unit = large ? kLarge : kSmall;
  auto* found = static_cast<T*>(std::aligned_alloc(size_t(unit), size_t((*bytes + unit - 1) / unit * unit)));
  if (!found) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (large) madvise(found, size_t(*bytes), MADV_HUGEPAGE);  // a hint: nothing depends on what the system makes of it
#endif
  return Pages<T>(found);
}

}  // namespace secateur
