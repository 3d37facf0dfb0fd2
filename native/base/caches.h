// How large the processor's caches are, as the operating system tells; asked once.

#pragma once

#include <cstdint>

namespace secateur {

// Bytes of the second-level cache of one core; 1 MiB where nobody tells, which is what current servers have at least.
int64_t second_level_bytes();

}  // namespace secateur
