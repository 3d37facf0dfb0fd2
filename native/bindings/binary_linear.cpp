// What Python's layers of one bit call: their forward product. Tensors come as addresses with lengths;
// src/secateur/sparse/ has checked their types and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/addresses.h"
#include "binary/layer.h"

namespace nb = nanobind;

namespace secateur {
namespace {

using binary::Layer;
using Flags = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

bool forward(const Layer& layer, uintptr_t x, int64_t stride, int64_t samples, int64_t columns, uintptr_t scales,
             int64_t scales_length, uintptr_t bias, int64_t bias_length, uintptr_t y, int64_t y_length, int threads) {
  if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
  require_length(columns, layer.columns(), "each row of the input");
  if (!x || !y || !scales || stride < 0) throw std::invalid_argument("there is no memory to be read or written");
  require_length(scales_length, layer.rows(), "`scales`");
  if (bias) require_length(bias_length, layer.rows(), "`bias`");
  require_length(y_length, samples * layer.rows(), "the output");
  return binary::forward(layer, at<float>(x), stride, samples, at<float>(scales), at<float>(bias), at<float>(y),
                         threads);
}

}  // namespace

void bind_binary_linear(nb::module_& module) {
  nb::class_<Layer>(module, "BinaryLayer", "The weights of one linear layer of +1, −1 and what is pruned, as bits.")
      .def(
          "__init__",
          [](Layer* self, int64_t rows, int64_t columns, Flags signs, Flags there) {
            if (rows < 1 || columns < 1 || columns > INT64_MAX / rows)
              throw std::invalid_argument("a binary layer needs rows and columns");
            require_length(int64_t(signs.size()), rows * columns, "the signs");
            require_length(int64_t(there.size()), rows * columns, "the places");
            new (self) Layer(rows, columns, signs.data(), there.data());
          },
          nb::arg("rows"), nb::arg("columns"), nb::arg("signs"), nb::arg("there"))
      .def_prop_ro("rows", &Layer::rows)
      .def_prop_ro("bytes", &Layer::bytes)
      .def("forward", &forward, nb::call_guard<nb::gil_scoped_release>(),
           "Multiply; return whether all numbers of the input were +1 or −1.");
  module.def("binary_set", &binary::current_set, "Name of the instructions that count bits.");
  module.def("binary_sets", &binary::supported_sets, "Names of those that are possible here, the plainest first.");
  module.def("use_binary_set", &binary::use_set, nb::arg("name"), "Switch to another of them; \"\" for the best one.");
}

}  // namespace secateur
