// What Python calls of PlaneConvolution: the same as of the networks in network.cpp, for one convolution.

#include "planes/plane_convolution.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>

#include "base/addresses.h"

namespace nb = nanobind;

namespace secateur {
namespace {

const float* read_at(uintptr_t address, int64_t length, int64_t expected, const char* what) {
  require_length(length, expected, what);
  return room_at(address, length, length, what);
}

ConvShape shape_of(const std::array<int32_t, 13>& s) {
  return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12]};
}

int64_t in_features(const ConvShape& s) { return int64_t(s.inputs) * s.height * s.width; }
int64_t out_features(const ConvShape& s) { return int64_t(s.outputs) * s.out_height() * s.out_width(); }

void require_samples(int64_t samples) {
  if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
}

void forward(const PlaneConvolution& layer, const Addresses& slots, uintptr_t x, int64_t x_length, int64_t samples,
             bool, uintptr_t work, int64_t work_length, uintptr_t out, int64_t out_length, int threads, bool) {
  require_samples(samples);
  if (count_of(slots) != 2) throw std::invalid_argument("not every slot was given");
  const ConvShape& s = layer.shape();
  const float* values = array_at(slots, 0, layer.count(), true, [] { return std::string("`values`"); });
  const float* bias = array_at(slots, 1, s.outputs, false, [] { return std::string("`bias`"); });
  const float* from = read_at(x, x_length, samples * in_features(s), "the input");
  float* room = room_at(work, work_length, layer.floats(samples, false), "the workspace");
  float* to = room_at(out, out_length, samples * out_features(s), "the output");
  Barrier barrier;
  run_team(layer.threads_worth(threads, samples), [&](int thread, int team) {
    layer.forward({barrier, thread, team}, values, bias, from, samples, room, to, {});
  });
}

void backward(const PlaneConvolution& layer, const Addresses& slots, const Addresses& gradients, uintptr_t dy,
              int64_t dy_length, int64_t samples, bool, uintptr_t work, int64_t work_length, uintptr_t dx,
              int64_t dx_length, int threads, bool) {
  require_samples(samples);
  if (count_of(slots) != 2 || count_of(gradients) != 2) throw std::invalid_argument("not every slot was given");
  const ConvShape& s = layer.shape();
  const float* values = array_at(slots, 0, layer.count(), true, [] { return std::string("`values`"); });
  float* of_values = array_at(gradients, 0, layer.count(), false, [] { return std::string("`values`' gradient"); });
  float* of_bias = array_at(gradients, 1, s.outputs, false, [] { return std::string("`bias`' gradient"); });
  const float* from = read_at(dy, dy_length, samples * out_features(s), "the output's gradient");
  float* room = room_at(work, work_length, layer.floats(samples, true), "the workspace");
  float* to = dx ? room_at(dx, dx_length, samples * in_features(s), "the input's gradient") : nullptr;
  Barrier barrier;
  run_team(layer.threads_worth(threads, samples), [&](int thread, int team) {
    layer.backward({barrier, thread, team}, values, from, samples, room, of_values, of_bias, to);
  });
}

}  // namespace

void bind_plane_convolution(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<PlaneConvolution>(module, "PlaneConvolution", "A convolution whose vectors run along positions.")
      .def("__init__",
           [](PlaneConvolution* made, const std::array<int32_t, 13>& s, Positions positions, int32_t together,
              bool trains) {
             new (made) PlaneConvolution(shape_of(s), positions.data(), int64_t(positions.size()), together, trains);
           },
           nb::arg("sizes"), nb::arg("positions"), nb::arg("together"), nb::arg("trains"))
      .def_static("side_by_side",
                  [](const std::array<int32_t, 13>& s, int64_t samples) {
                    return PlaneConvolution::side_by_side(shape_of(s), samples);
                  })
      .def("shape", [](const PlaneConvolution& layer) {
             const ConvShape& s = layer.shape();
             return std::array<int32_t, 3>{s.outputs, s.out_height(), s.out_width()};
           })
      .def("work_floats", &PlaneConvolution::floats)
      .def("forward", &forward, Release())
      .def("backward", &backward, Release());
}

}  // namespace secateur
