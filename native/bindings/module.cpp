// The Python module `secateur._native`. Each topic registers its own functions: one bind_<topic> per file.

#include <nanobind/nanobind.h>

namespace secateur {
void bind_binary_linear(nanobind::module_& module);
void bind_coding(nanobind::module_& module);
void bind_half_linear(nanobind::module_& module);
void bind_int8_linear(nanobind::module_& module);
void bind_isa(nanobind::module_& module);
void bind_memory(nanobind::module_& module);
void bind_plane_convolution(nanobind::module_& module);
void bind_select(nanobind::module_& module);
void bind_exchange(nanobind::module_& module);
void bind_topk(nanobind::module_& module);
void bind_zeros(nanobind::module_& module);
void bind_sparse_linear(nanobind::module_& module);
void bind_sparse_net(nanobind::module_& module);
void bind_sparse_recurrent(nanobind::module_& module);
void bind_steps(nanobind::module_& module);
}  // namespace secateur

// What the functions take. Raise it with secateur/_base/door.py when a signature changes: a library from other sources
// must not be called.
constexpr int kInterface = 7;

NB_MODULE(_native, module) {
  module.doc() = "Compiled kernels of Secateur. Private: use the Python modules that wrap them.";
  // Plans are kept until Python ends, on purpose.
  nanobind::set_leak_warnings(false);
  module.attr("interface") = kInterface;
  secateur::bind_isa(module);
  secateur::bind_binary_linear(module);
  secateur::bind_coding(module);
  secateur::bind_half_linear(module);
  secateur::bind_int8_linear(module);
  secateur::bind_memory(module);
  secateur::bind_plane_convolution(module);
  secateur::bind_select(module);
  secateur::bind_exchange(module);
  secateur::bind_topk(module);
  secateur::bind_zeros(module);
  secateur::bind_sparse_linear(module);
  secateur::bind_sparse_net(module);
  secateur::bind_sparse_recurrent(module);
  secateur::bind_steps(module);
}
