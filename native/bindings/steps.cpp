// What Python calls of the compiled training steps, and of what prepares them.

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>

#include "base/addresses.h"
#include "bindings/masks.h"
#include "step/net_step.h"
#include "step/places.h"
#include "step/recurrent_step.h"

namespace nb = nanobind;

namespace secateur {
namespace {

using Release = nb::call_guard<nb::gil_scoped_release>;
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// `given`: the values and the two tensors of optimizer state, all of one length, or none.
Parameter parameter(const Addresses& given, int64_t active, int group) {
  if (count_of(given) < 3 || group < 0) throw std::invalid_argument("a parameter has a value, two states and a group");
  const int64_t count = int64_t(given[1]);
  if (count < active || active < 0) throw std::invalid_argument("a parameter has fewer values than active ones");
  const auto name = [] { return std::string("the state of a parameter"); };
  return {array_at(given, 0, count, true, name), array_at(given, 1, count, false, name),
          array_at(given, 2, count, false, name), active, count, group};
}

const int64_t* labels(uintptr_t targets, int64_t length, int64_t samples) {
  require_length(length, samples, "`targets`");
  if (!targets) throw std::invalid_argument("`targets` have no memory to be read");
  return at<const int64_t>(targets);
}

// Sequences [sample, time, feature] of which Python says how many features they have.
const float* sequences(const RecurrentStep& step, uintptr_t x, int64_t features, int64_t samples, int64_t times) {
  require_length(features, step.features(), "each step of the inputs");
  if (!x || samples < 1 || times < 1) throw std::invalid_argument("the inputs must be at least one sample and step");
  return at<const float>(x);
}

template <class Step>
void bind_optimizer(nb::class_<Step>& type) {
  type.def("set_sgd",
           [](Step& step, int group, double lr, double momentum, double dampening, double weight_decay, bool nesterov,
              bool maximize) {
             step.optimizer().set_sgd(group, lr, momentum, dampening, weight_decay, nesterov, maximize);
           })
      .def("set_adam",
           [](Step& step, int group, double lr, double beta1, double beta2, double eps, double weight_decay,
              bool decoupled, bool maximize) {
             step.optimizer().set_adam(group, lr, beta1, beta2, eps, weight_decay, decoupled, maximize);
           })
      .def_prop_rw(
          "steps", [](Step& step) { return step.optimizer().steps(); },
          [](Step& step, int64_t steps) { step.optimizer().set_steps(steps); })
      .def_prop_ro("room_bytes", &Step::room_bytes)
      .def("release", &Step::release);
}

void bind_net_step(nb::module_& module) {
  nb::class_<NetStep> type(module, "NetStep", "A training step of a SparseNet in one call.");
  type.def(nb::init<std::shared_ptr<SparseNet>>(), nb::arg("net"))
      .def("threads_worth", &NetStep::threads_worth)
      .def("set_parameter",
           [](NetStep& step, int slot, const Addresses& given, int64_t active, int group) {
             const Parameter found = parameter(given, active, group);
             if (count_of(given) != 4) throw std::invalid_argument("the last tensor says what may change, or is none");
             const float* keep = array_at(given, 3, found.count, false, [] { return std::string("`keep`"); });
             step.set_parameter(slot, found, keep);
           })
      .def("set_constant",
           [](NetStep& step, int slot, uintptr_t value, int64_t length) {
             const Slot& s = step.net().slots().at(size_t(slot));
             const Addresses given{value, uintptr_t(length)};
             step.set_constant(slot, array_at(given, 0, s.length, s.needed, [&] { return std::string(s.name); }));
           })
      .def("take_room", &NetStep::take_room)
      .def(
          "step",
          [](NetStep& step, uintptr_t x, int64_t x_length, uintptr_t targets, int64_t targets_length, int64_t samples,
             int threads, bool split) {
            require_length(x_length, samples * step.net().input().features(), "the inputs");
            const float* input = room_at(x, x_length, x_length, "the inputs");
            return step.step(input, labels(targets, targets_length, samples), samples, threads, split);
          },
          Release());
  bind_optimizer(type);
}

void bind_recurrent_step(nb::module_& module) {
  nb::class_<RecurrentStep> type(module, "RecurrentStep", "A training step of a recurrent classifier in one call.");
  type.def(nb::init<std::shared_ptr<const RecurrentLayer>, std::shared_ptr<const SparseLayer>,
                    std::shared_ptr<const SparseLayer>>(),
           nb::arg("cell"), nb::arg("projection").none(), nb::arg("head"))
      .def("first", &RecurrentStep::first)
      .def("add_parameter",
           [](RecurrentStep& step, const Addresses& given, Indices places, int group) {
             step.add_parameter(parameter(given, int64_t(places.size()), group), places.data());
           })
      .def("set_constant", &RecurrentStep::set_constant)
      .def(
          "step",
          [](RecurrentStep& step, uintptr_t x, int64_t sample_stride, int64_t time_stride, int64_t features,
             uintptr_t targets, int64_t targets_length, int64_t samples, int64_t times, int threads) {
            return step.step(sequences(step, x, features, samples, times), sample_stride, time_stride,
                             labels(targets, targets_length, samples), samples, times, threads);
          },
          Release())
      .def(
          "predict",
          [](RecurrentStep& step, uintptr_t x, int64_t sample_stride, int64_t time_stride, int64_t features,
             int64_t samples, int64_t times, uintptr_t out, int64_t out_length, int threads) {
            step.predict(sequences(step, x, features, samples, times), sample_stride, time_stride, samples, times,
                         room_at(out, out_length, samples * step.classes(), "the outputs"), threads);
          },
          Release());
  bind_optimizer(type);
}

void bind_places(nb::module_& module) {
  nb::class_<DensePlaces>(module, "DensePlaces", "Where a layer's weights stand in a dense one.")
      .def(nb::init<std::shared_ptr<const SparseLayer>>(), nb::arg("layer"))
      .def(
          "__init__",
          [](DensePlaces* self, std::shared_ptr<const SparseLayer> layer, Matrix mask, Flags rows, Flags columns) {
            new (self) DensePlaces(std::move(layer), taken(mask, rows, columns));
          },
          nb::arg("layer"), nb::arg("mask"), nb::arg("rows"), nb::arg("columns"))
      .def("__len__", &DensePlaces::count)
      .def(
          "take",
          [](const DensePlaces& places, const Addresses& dense, const Addresses& values, int threads) {
            places.take(array_at(dense, 0, places.numel(), true, [] { return std::string("the dense weight"); }),
                        array_at(values, 0, places.count(), true, [] { return std::string("what is taken"); }),
                        threads);
          },
          Release())
      .def(
          "put",
          [](const DensePlaces& places, const Addresses& values, const Addresses& dense, int threads) {
            places.put(array_at(values, 0, places.count(), true, [] { return std::string("what is put"); }),
                       array_at(dense, 0, places.numel(), true, [] { return std::string("the dense weight"); }),
                       threads);
          },
          Release())
      .def("listed", [](const DensePlaces& places, int threads) { return array(places.listed(threads)); });
}

}  // namespace

void bind_steps(nb::module_& module) {
  bind_net_step(module);
  bind_recurrent_step(module);
  bind_places(module);
  module.def("whole_blocks", [](Matrix mask, Flags rows, Flags columns) {
    return whole_blocks(mask.data(), int64_t(mask.shape(0)), int64_t(mask.shape(1)), flags(rows, mask.shape(0)),
                        flags(columns, mask.shape(1)));
  });
  module.def("used_columns", [](Matrix mask, Flags rows) {
    return array(used_columns(mask.data(), int64_t(mask.shape(0)), int64_t(mask.shape(1)),
                              flags(rows, mask.shape(0))));
  });
  module.def("carry", [](Positions from, Positions to, int64_t size, const Addresses& old, const Addresses& made) {
    if (count_of(old) != count_of(made)) throw std::invalid_argument("each array needs one to go to");
    for (const Positions& places : {from, to})
      for (size_t i = 0; i < places.size(); ++i)
        if (places.data()[i] < 0 || places.data()[i] >= size) throw std::invalid_argument("a place lies outside");
    const std::vector<int64_t> sources = match(from.data(), int64_t(from.size()), to.data(), int64_t(to.size()), size);
    const auto name = [] { return std::string("what is carried over"); };
    for (size_t i = 0; i < count_of(old); ++i)
      carry(sources, array_at(old, i, int64_t(from.size()), true, name), array_at(made, i, int64_t(to.size()), true, name));
  });
}

}  // namespace secateur
