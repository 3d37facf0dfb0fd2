// What Python's layers of int8 weights call: their forward product. Tensors come as addresses with lengths;
// src/secateur/sparse/ has checked their types and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/addresses.h"
#include "int8/layer.h"

namespace nb = nanobind;

namespace secateur {
namespace {

using int8::Layer;
using Bytes = nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void forward(const Layer& layer, uintptr_t x, int64_t stride, int64_t samples, int64_t columns, bool bf16,
             uintptr_t bias, int64_t bias_length, uintptr_t y, int64_t y_length, bool y_bf16, int threads) {
  if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
  require_length(columns, layer.columns(), "each row of the input");
  if (!x || stride < 0) throw std::invalid_argument("the input has no memory to be read");
  if (bias) require_length(bias_length, layer.rows(), "`bias`");
  require_length(y_length, samples * layer.rows(), "the output");
  int8::forward(layer, {at<void>(x), stride, samples, bf16}, at<float>(bias), {at<void>(y), layer.rows(), samples, y_bf16},
                threads);
}

}  // namespace

void bind_int8_linear(nb::module_& module) {
  nb::class_<Layer>(module, "Int8Layer", "The weights of one masked linear layer as signed bytes behind a bitmask.")
      .def(
          "__init__",
          [](Layer* self, int64_t rows, int64_t columns, Positions positions, Bytes values, Numbers scales) {
            require_length(int64_t(values.size()), int64_t(positions.size()), "the values");
            new (self) Layer(rows, columns, positions.data(), values.data(), int64_t(positions.size()), scales.data(),
                             int64_t(scales.size()));
          },
          nb::arg("rows"), nb::arg("columns"), nb::arg("positions"), nb::arg("values"), nb::arg("scales"))
      .def_prop_ro("rows", &Layer::rows)
      .def_prop_ro("count", &Layer::count)
      .def_prop_ro("bytes", &Layer::bytes)
      .def("forward", &forward, nb::call_guard<nb::gil_scoped_release>());
  module.def("int8_set", &int8::current_set, "Name of the instructions that multiply bytes; \"\" for none.");
  module.def("int8_sets", &int8::supported_sets, "Names of those that are possible here, the plainest first.");
  module.def("use_int8_set", &int8::use_set, nb::arg("name"), "Switch to another of them; \"\" for the best one.");
}

}  // namespace secateur
