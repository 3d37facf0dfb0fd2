// What Python's sparse recurrent modules call: one direction of one LSTM or GRU layer, forward and backward through
// time. Tensors come as addresses; src/secateur/sparse/ has checked their types, shapes and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <stdexcept>

#include "base/addresses.h"
#include "base/room.h"
#include "layers/recurrent_layer.h"
#include "layers/sparse_layer.h"

namespace nb = nanobind;

namespace secateur {
namespace {

// A [time, sample, feature] tensor; features are consecutive.
struct Series {
  float* first;
  int64_t time_stride, sample_stride;

  float* operator()(int64_t t) const { return first + t * time_stride; }
};

// The surviving input and state weights and torch's two biases; null where there is none.
struct Tensors {
  float *input, *state, *input_bias, *state_bias;

  explicit Tensors(const Addresses& a) {
    if (a.size() != 4) throw std::invalid_argument("a recurrent layer has four tensors");
    input = at<float>(a[0]), state = at<float>(a[1]), input_bias = at<float>(a[2]), state_bias = at<float>(a[3]);
  }
};

// Calls visit(tensor's element, place among the layer's numbers) for every number that a tensor holds.
template <class Visit>
void each_number(const RecurrentLayer& layer, const Tensors& t, Visit&& visit) {
  const auto all = [&](float* tensor, const std::vector<int32_t>& places) {
    for (size_t k = 0; tensor && k < places.size(); ++k) visit(tensor[k], places[k]);
  };
  all(t.input, layer.input_places());
  all(t.state, layer.state_places());
  for (int32_t r = 0; r < layer.gates() * layer.units(); ++r) {
    if (t.input_bias) visit(t.input_bias[r], layer.bias_place(false, r));
    if (t.state_bias) visit(t.state_bias[r], layer.bias_place(true, r));
  }
}

void assemble(const RecurrentLayer& layer, const Tensors& tensors, float* numbers) {
  std::fill_n(numbers, layer.numbers(), 0.0f);
  each_number(layer, tensors, [numbers](float value, int32_t place) { numbers[place] += value; });
}

void start(const Tables& t, const Packer& packer, const float* from, int64_t units, int64_t samples, Chunk chunk,
           float* rows) {
  if (from) {
    packer.pack(t, from, units, samples, chunk, rows);
  } else {
    std::fill_n(rows, units * chunk.width(), 0.0f);
  }
}


// Runs body(chunk, thread) for every chunk on a team that is worth its while.
template <class Body>
void each_chunk(int32_t tiles, int chunks, int threads, Body&& body) {
  run_team(std::clamp(threads, 1, chunks), [&](int thread, int team) {
    for (int c = thread; c < chunks; c += team) body(Chunk::of(tiles, c, chunks), thread);
  });
}

void forward(const RecurrentLayer& layer, const Addresses& tensors, uintptr_t x, int64_t x_time, int64_t x_sample,
             int64_t steps, int64_t samples, bool reverse, uintptr_t h0, uintptr_t c0, uintptr_t work, int chunks,
             int threads, uintptr_t out, int64_t out_time, int64_t out_sample, uintptr_t hn, uintptr_t cn) {
  const Tables t = tables();
  const bool keep = work != 0;
  const int32_t tiles = tiles_of(samples);
  const Series input{at<float>(x), x_time, x_sample}, output{at<float>(out), out_time, out_sample};
  float* numbers = scratch(2, layer.numbers());
  // Without a buffer to keep the activations in (inference) a thread needs room for one chunk at a time.
  const int64_t room = keep ? 0 : layer.rows(steps, false) * Chunk::widest(tiles, chunks);
  float* buffer = keep ? at<float>(work) : scratch(0, room * std::clamp(threads, 1, chunks));
  assemble(layer, Tensors(tensors), numbers);
  const int64_t units = layer.units();
  const Packer& states = layer.state_packer();
  each_chunk(tiles, chunks, threads, [&](Chunk chunk, int thread) {
    const Chunk place = keep ? chunk : Chunk{0, chunk.tiles};
    const RecurrentLayer::Trace trace = layer.trace(buffer + room * thread, place, steps, keep);
    start(t, states, at<float>(h0), units, samples, chunk, layer.h(trace, 0, keep));
    if (!layer.gru()) start(t, states, at<float>(c0), units, samples, chunk, trace.state);
    for (int64_t s = 0; s < steps; ++s) {
      const int64_t time = reverse ? steps - 1 - s : s;
      layer.input_packer().pack(t, input(time), input.sample_stride, samples, chunk, trace.x(keep ? s : s & 1));
      layer.forward(t, numbers, trace, s, keep);
      states.unpack(t, layer.h(trace, s + 1, keep), samples, chunk, output(time), output.sample_stride);
    }
    states.unpack(t, layer.h(trace, steps, keep), samples, chunk, at<float>(hn), units);
    if (!layer.gru())
      states.unpack(t, trace.state + steps * trace.state_stride, samples, chunk, at<float>(cn), units);
  });
}

void backward(const RecurrentLayer& layer, const Addresses& tensors, uintptr_t work, int64_t steps, int64_t samples,
              bool reverse, int chunks, int threads, uintptr_t dy, int64_t dy_time, int64_t dy_sample, uintptr_t dhn,
              uintptr_t dcn, const Addresses& gradients, uintptr_t dx, int64_t dx_time, int64_t dx_sample,
              uintptr_t dh0, uintptr_t dc0) {
  const Tables t = tables();
  const int32_t tiles = tiles_of(samples);
  const Series output{at<float>(dy), dy_time, dy_sample}, input{at<float>(dx), dx_time, dx_sample};
  const int64_t units = layer.units(), entries = layer.first_bias(), numbers = layer.numbers();
  const int team = std::clamp(threads, 1, chunks);
  // Floats that each thread needs: its sums of gradients, then rows of one chunk.
  int64_t room = 0;
  for (int c = 0; c < chunks; ++c) {
    const int32_t width = Chunk::of(tiles, c, chunks).width();
    room = std::max(room, (3 * units + layer.inputs() + layer.ring_rows(width)) * width);
  }
  const int64_t each = (numbers + room + 31) / 32 * 32;
  float* back = scratch(2, std::max(numbers, entries));
  float* own = scratch(1, team * each + numbers);
  float* values = own + team * each;
  assemble(layer, Tensors(tensors), values);
  layer.transpose(t, values, {0, layer.count()}, back);
  for (int i = 0; i < team; ++i) std::fill_n(own + i * each, numbers, 0.0f);
  const Tensors wanted(gradients);
  const bool biases = wanted.input_bias || wanted.state_bias;
  const Packer& states = layer.state_packer();
  const Packer inputs(layer.inputs());
  each_chunk(tiles, chunks, threads, [&](Chunk chunk, int thread) {
    const RecurrentLayer::Trace trace = layer.trace(at<float>(work), chunk, steps, true);
    float* sums = own + thread * each;
    float* carry = sums + numbers;
    const int32_t width = chunk.width();
    float* dlast = carry + units * width;
    float* dout = dlast + units * width;
    float* din = dout + units * width;
    const RecurrentLayer::Ring ring = layer.ring(din + layer.inputs() * int64_t(width), width);
    start(t, states, layer.gru() ? nullptr : at<float>(dcn), units, samples, chunk, carry);
    if (dhn) states.pack(t, at<float>(dhn), units, samples, chunk, dlast);
    const int64_t block = RecurrentLayer::steps_at_once(width);
    int64_t end = steps;
    for (int64_t s = steps; s-- > 0;) {
      const int64_t time = reverse ? steps - 1 - s : s;
      if (dy) states.pack(t, output(time), output.sample_stride, samples, chunk, dout);
      layer.backward(t, back, trace, ring, s, dy ? dout : nullptr, dhn ? dlast : nullptr, carry);
      if (dx) {
        layer.input_gradient(t, back, ring, s, width, din);
        inputs.unpack(t, din, samples, chunk, input(time), input.sample_stride);
      }
      if (s % block == 0) {
        layer.add_gradients(t, trace, ring, s, end, biases, sums);
        end = s;
      }
    }
    if (dh0) {
      layer.first_state_gradient(t, back, ring, width, carry, dlast);
      states.unpack(t, dlast, samples, chunk, at<float>(dh0), units);
    }
    if (dc0) states.unpack(t, carry, samples, chunk, at<float>(dc0), units);
  });
  for (int i = 1; i < team; ++i) t.recurrent.add(numbers, own + i * each, own);
  each_number(layer, wanted, [own](float& gradient, int32_t place) { gradient = own[place]; });
}

}  // namespace

void bind_sparse_recurrent(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<RecurrentLayer>(module, "RecurrentLayer", "One direction of a sparse LSTM or GRU layer.")
      .def(
          "__init__",
          [](RecurrentLayer* self, bool gru, int64_t inputs, int64_t units, Positions ih, Positions hh) {
            new (self) RecurrentLayer(gru, inputs, units, ih.data(), int64_t(ih.size()), hh.data(),
                                      int64_t(hh.size()));
          },
          nb::arg("gru"), nb::arg("inputs"), nb::arg("units"), nb::arg("ih"), nb::arg("hh"))
      .def("input_places", &RecurrentLayer::input_places)
      .def("state_places", &RecurrentLayer::state_places)
      .def("bias_place", &RecurrentLayer::bias_place)
      .def("work_floats",
           [](const RecurrentLayer& layer, int64_t steps, int64_t samples) {
             return layer.rows(steps, true) * tiles_of(samples) * kTileSamples;
           })
      .def("forward", &forward, Release())
      .def("backward", &backward, Release());
  module.def("recurrent_chunks", [](int64_t samples, int threads) {
    return Chunk::count_for(tiles_of(samples), threads);
  });
  // For tests: one of the kernels' functions over an array.
  module.def("sigmoid", [](uintptr_t x, uintptr_t out, int64_t count) {
    tables().recurrent.sigmoid(count, at<const float>(x), at<float>(out));
  });
  module.def("tanh", [](uintptr_t x, uintptr_t out, int64_t count) {
    tables().recurrent.tanh(count, at<const float>(x), at<float>(out));
  });
}

}  // namespace secateur
