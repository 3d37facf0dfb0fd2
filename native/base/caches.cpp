#include "base/caches.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace secateur {
namespace {

constexpr int64_t kLeast = 256 << 10, kUsual = 1 << 20;

int64_t asked() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or −1 in some virtual machines
  return found >= kLeast ? found : kUsual;
#else
  return kUsual;
#endif
}

}  // namespace

int64_t second_level_bytes() {
  static const int64_t found = asked();
  return found;
}

}  // namespace secateur
