// What Python asks about the memory that calls keep for the next one.

#include <nanobind/nanobind.h>

#include <algorithm>

#include "base/room.h"

namespace nb = nanobind;

namespace secateur {

void bind_memory(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  module.def("scratch_bytes", [](int threads) { return scratch_bytes(std::max(threads, 1)); }, Release(),
             nb::arg("threads"), "Bytes that the calling thread, and those that work for it, keep between calls.");
  module.def("release_scratch", [](int threads) { release_scratch(std::max(threads, 1)); }, Release(),
             nb::arg("threads"), "Give them back.");
  module.def("ask_for_large_pages",
             [](uintptr_t memory, int64_t bytes) { ask_for_large_pages(reinterpret_cast<void*>(memory), bytes); },
             nb::arg("memory"), nb::arg("bytes"), "Where new memory of a large tensor lies.");
}

}  // namespace secateur
