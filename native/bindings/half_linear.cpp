// What Python's sparse layers call where numbers are rounded to bfloat16: the products of one linear layer.
// Tensors come as addresses with lengths; src/secateur/sparse/ has checked their types and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/addresses.h"
#include "paired/products.h"
#include "half/products.h"
#include "half/sets.h"

namespace nb = nanobind;

namespace secateur {
namespace {

using half::HalfLayer;
using half::Matrix;
using half::PairedLayer;

// One row for each sample, of which Python says how many columns it has and how far apart the rows are.
Matrix matrix(uintptr_t address, int64_t stride, int64_t samples, int64_t columns, int64_t expected, bool bf16,
              const char* what) {
  if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
  if (columns != expected) refuse_length(columns, expected, std::string("each row of ") + what);
  if (!address || stride < 0) throw std::invalid_argument(std::string(what) + " has no memory to be read");
  return {at<void>(address), stride, samples, bf16};
}

int64_t packed_size(const HalfLayer& layer) { return layer.count() + half::kPadding; }
int64_t packed_size(const PairedLayer& layer) { return layer.packed(); }

template <class Layer>
const uint16_t* packed_at(const Layer& layer, uintptr_t address, int64_t length) {
  require_length(length, packed_size(layer), "the rounded values");
  if (!address) throw std::invalid_argument("the rounded values have no memory to be read");
  return at<uint16_t>(address);
}

template <class Layer>
void round_values(const Layer& layer, uintptr_t values, int64_t length, uintptr_t packed, int64_t packed_length,
                  int threads) {
  require_length(length, layer.count(), "`values`");
  half::round_values(layer, at<float>(values), const_cast<uint16_t*>(packed_at(layer, packed, packed_length)), threads);
}

template <class Layer>
void forward(const Layer& layer, uintptr_t packed, int64_t packed_length, uintptr_t x, int64_t stride,
             int64_t samples, int64_t columns, bool bf16, uintptr_t bias, int64_t bias_length, uintptr_t y,
             int64_t y_length, bool y_bf16, int threads) {
  const auto* weights = packed_at(layer, packed, packed_length);
  const Matrix from = matrix(x, stride, samples, columns, layer.columns(), bf16, "the input");
  if (bias) require_length(bias_length, layer.rows(), "`bias`");
  require_length(y_length, samples * layer.rows(), "the output");
  half::forward(layer, weights, from, at<float>(bias), {at<void>(y), layer.rows(), samples, y_bf16}, threads);
}

template <class Layer>
void input_gradient(const Layer& layer, uintptr_t packed, int64_t packed_length, uintptr_t dy, int64_t stride,
                    int64_t samples, int64_t columns, bool bf16, uintptr_t dx, int64_t dx_length, bool dx_bf16,
                    int threads) {
  const auto* weights = packed_at(layer, packed, packed_length);
  const Matrix from = matrix(dy, stride, samples, columns, layer.rows(), bf16, "the gradient");
  require_length(dx_length, samples * layer.columns(), "the input's gradient");
  half::input_gradient(layer, weights, from, {at<void>(dx), layer.columns(), samples, dx_bf16}, threads);
}

template <class Layer>
void weight_gradient(const Layer& layer, uintptr_t x, int64_t x_stride, bool x_bf16, uintptr_t dy,
                     int64_t dy_stride, bool dy_bf16, int64_t samples, uintptr_t dvalues, int64_t length, int threads) {
  require_length(length, layer.count(), "the values' gradient");
  const Matrix from = matrix(x, x_stride, samples, layer.columns(), layer.columns(), x_bf16, "the input");
  const Matrix back = matrix(dy, dy_stride, samples, layer.rows(), layer.rows(), dy_bf16, "the gradient");
  half::weight_gradient(layer, from, back, at<float>(dvalues), threads);
}

// What both kinds of layers have.
template <class Layer>
nb::class_<Layer> products_of(nb::class_<Layer>&& made) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  made.def_prop_ro("count", &Layer::count)
      .def_prop_ro("bytes", &Layer::bytes)
      .def_prop_ro("packed", [](const Layer& layer) { return packed_size(layer); })
      .def("round_values", &round_values<Layer>, Release())
      .def("forward", &forward<Layer>, Release())
      .def("input_gradient", &input_gradient<Layer>, Release())
      .def("weight_gradient", &weight_gradient<Layer>, Release());
  return std::move(made);
}

}  // namespace

void bind_half_linear(nb::module_& module) {
  products_of(nb::class_<HalfLayer>(module, "HalfLayer", "The weights of one masked linear layer as a bitmask, for bfloat16."))
      .def(
          "__init__",
          [](HalfLayer* self, int64_t rows, int64_t columns, Positions positions, Positions edges) {
            new (self) HalfLayer(rows, columns, positions.data(), int64_t(positions.size()), edges.data(),
                                 int64_t(edges.size()));
          },
          nb::arg("rows"), nb::arg("columns"), nb::arg("positions"), nb::arg("edges"));
  products_of(nb::class_<PairedLayer>(module, "PairedLayer", "Weights in blocks of 64 outputs and 2 inputs, for bfloat16."));
  module.def(
      "paired_layer",
      [](int64_t rows, int64_t columns, Positions positions, Positions edges) {
        return PairedLayer::of(rows, columns, positions.data(), int64_t(positions.size()), edges.data(),
                               int64_t(edges.size()));
      },
      nb::arg("rows"), nb::arg("columns"), nb::arg("positions"), nb::arg("edges"), nb::rv_policy::take_ownership,
      "The layer, or None where its weights are no such blocks.");
  module.def("half_has_pairs", [] { return half::current_kernels().paired != nullptr; }, "Whether the set in use multiplies PairedLayers.");
  module.attr("half_padding") = half::kPadding;
  module.def("half_set", &half::current_set, "Name of the instructions that multiply bfloat16.");
  module.def("half_sets", &half::supported_sets, "Names of those that are possible here, the plainest first.");
  module.def("use_half_set", &half::use_set, nb::arg("name"), "Switch to another of them; \"\" for this machine's choice.");
}

}  // namespace secateur
