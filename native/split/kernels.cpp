#include "split/kernels.h"

#include "base/extensions.h"
#include "base/isa.h"

namespace secateur {

#if defined(SECATEUR_HAVE_AMX)
extern const SplitKernels split_by_tiles;

const SplitKernels* split_kernels() {
  return has_tiles() && current_isa() == Isa::avx512 ? &split_by_tiles : nullptr;
}
#else
const SplitKernels* split_kernels() { return nullptr; }
#endif

}  // namespace secateur
