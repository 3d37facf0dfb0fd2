// The Python module `secateur._native`. Each topic registers its own functions: one bind_<topic> per file.

#include <nanobind/nanobind.h>

namespace secateur {
void bind_isa(nanobind::module_& module);
void bind_select(nanobind::module_& module);
}  // namespace secateur

NB_MODULE(_native, module) {
  module.doc() = "Compiled kernels of Secateur. Private: use the Python modules that wrap them.";
  secateur::bind_isa(module);
  secateur::bind_select(module);
}
