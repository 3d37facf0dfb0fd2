// What Python calls of the compiled training steps, and of what prepares them.

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>

#include "base/addresses.h"
#include "step/net_step.h"
#include "step/places.h"
#include "step/recurrent_step.h"

namespace nb = nanobind;

namespace secateur {
namespace {

using Release = nb::call_guard<nb::gil_scoped_release>;
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Flags = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

// Gives the numbers to Python, which frees them.
template <class T>
Array<T> array(std::vector<T>&& numbers) {
  auto* held = new std::vector<T>(std::move(numbers));
  nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Array<T>(held->data(), {held->size()}, owner);
}

Parameter parameter(uintptr_t value, uintptr_t first, uintptr_t second, int64_t active, int64_t count, int group) {
  if (count < active) throw std::invalid_argument("a parameter has fewer values than active ones");
  return {at<float>(value), at<float>(first), at<float>(second), active, count, group};
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
          [](Step& step, int64_t steps) { step.optimizer().set_steps(steps); });
}

void bind_net_step(nb::module_& module) {
  nb::class_<NetStep> type(module, "NetStep", "A training step of a SparseNet in one call.");
  type.def(nb::init<std::shared_ptr<SparseNet>>(), nb::arg("net"))
      .def("set_parameter",
           [](NetStep& step, int slot, uintptr_t value, uintptr_t first, uintptr_t second, int64_t active,
              int64_t count, int group, uintptr_t keep) {
             step.set_parameter(slot, parameter(value, first, second, active, count, group), at<const float>(keep));
           })
      .def("set_constant", [](NetStep& step, int slot, uintptr_t value) { step.set_constant(slot, at<float>(value)); })
      .def("take_room", &NetStep::take_room)
      .def(
          "step",
          [](NetStep& step, uintptr_t x, uintptr_t targets, int64_t samples, int threads) {
            return step.step(at<const float>(x), at<const int64_t>(targets), samples, threads);
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
           [](RecurrentStep& step, uintptr_t value, uintptr_t first, uintptr_t second, Indices places, int64_t count,
              int group) {
             step.add_parameter(parameter(value, first, second, int64_t(places.size()), count, group), places.data());
           })
      .def("set_constant", &RecurrentStep::set_constant)
      .def(
          "step",
          [](RecurrentStep& step, uintptr_t x, int64_t sample_stride, int64_t time_stride, uintptr_t targets,
             int64_t samples, int64_t times, int threads) {
            return step.step(at<const float>(x), sample_stride, time_stride, at<const int64_t>(targets), samples, times,
                             threads);
          },
          Release())
      .def(
          "predict",
          [](RecurrentStep& step, uintptr_t x, int64_t sample_stride, int64_t time_stride, int64_t samples,
             int64_t times, uintptr_t out, int threads) {
            step.predict(at<const float>(x), sample_stride, time_stride, samples, times, at<float>(out), threads);
          },
          Release());
  bind_optimizer(type);
}

const bool* flags(const Flags& given, size_t expected) {
  if (given.size() != expected) throw std::invalid_argument("a flag is needed for each row and each column");
  return given.data();
}

}  // namespace

void bind_steps(nb::module_& module) {
  bind_net_step(module);
  bind_recurrent_step(module);
  module.def("whole_blocks", [](Matrix mask, Flags rows, Flags columns) {
    return whole_blocks(mask.data(), int64_t(mask.shape(0)), int64_t(mask.shape(1)), flags(rows, mask.shape(0)),
                        flags(columns, mask.shape(1)));
  });
  module.def("used_columns", [](Matrix mask, Flags rows) {
    return array(used_columns(mask.data(), int64_t(mask.shape(0)), int64_t(mask.shape(1)),
                              flags(rows, mask.shape(0))));
  });
  module.def("place_weights", [](Matrix mask, Flags rows, Flags columns, Flags counted, int64_t block_columns) {
    Places found = place_weights(mask.data(), int64_t(mask.shape(0)), int64_t(mask.shape(1)),
                                 flags(rows, mask.shape(0)), flags(columns, mask.shape(1)),
                                 flags(counted, mask.shape(0)), block_columns);
    return nb::make_tuple(found.taken_rows, found.taken_columns, array(std::move(found.positions)),
                          array(std::move(found.edges)), array(std::move(found.places)), array(std::move(found.rows)));
  });
  module.def("carry", [](Positions from, Positions to, int64_t size, const Addresses& old, const Addresses& made) {
    if (old.size() != made.size()) throw std::invalid_argument("each array needs one to go to");
    for (const Positions& places : {from, to})
      for (size_t i = 0; i < places.size(); ++i)
        if (places.data()[i] < 0 || places.data()[i] >= size) throw std::invalid_argument("a place lies outside");
    const std::vector<int64_t> sources = match(from.data(), int64_t(from.size()), to.data(), int64_t(to.size()), size);
    for (size_t i = 0; i < old.size(); ++i) carry(sources, at<const float>(old[i]), at<float>(made[i]));
  });
}

}  // namespace secateur
