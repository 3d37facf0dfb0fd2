// Detects what this processor understands; lets a caller choose a lesser set.

#include "base/isa.h"

#include <atomic>
#include <stdexcept>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace secateur {
namespace {

bool processor_has(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
#if defined(SECATEUR_HAVE_AVX2)
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
      return false;
#endif
    case Isa::avx512:
#if defined(SECATEUR_HAVE_AVX512)
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
      return false;
#endif
  }
  return false;
}

// bind_isa() sets it to the best one when the module is imported.
std::atomic<Isa> chosen{Isa::portable};

}  // namespace

Isa current_isa() { return chosen.load(std::memory_order_relaxed); }

std::vector<Isa> supported_isas() {
  std::vector<Isa> found;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (processor_has(isa)) found.push_back(isa);
  }
  return found;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    default:
      return "portable";
  }
}

void use_isa(const std::string& name) {
  std::string known;
  for (Isa isa : supported_isas()) {
    if (name == isa_name(isa)) {
      chosen = isa;
      return;
    }
    known += std::string(known.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("the instruction set (SECATEUR_ISA) must be one of " + known + " on this machine, got '" + name + "'");
}

void bind_isa(nanobind::module_& module) {
  chosen = supported_isas().back();
  module.def("isa", [] { return std::string(isa_name(current_isa())); },
             "Name of the instruction set that the kernels use.");
  module.def("supported_isas", [] {
               std::vector<std::string> names;
               for (Isa isa : supported_isas()) names.emplace_back(isa_name(isa));
               return names;
             }, "Names of the sets that this build and this processor both have, best last.");
  module.def("use_isa", &use_isa, nanobind::arg("name"),
             "Switch all kernels to another supported instruction set; for tests and measurements.");
}

}  // namespace secateur
