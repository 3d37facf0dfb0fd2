// What Python's sparse recurrent modules call: one direction of one LSTM or GRU layer, forward and backward through
// time. Tensors come as addresses with lengths; src/secateur/sparse/ has checked their types and strides.

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

// A [time, sample, feature] tensor; features are consecutive. Python says how many there are.
struct Series {
  float* first;
  int64_t time_stride, sample_stride;

  Series(const std::vector<int64_t>& given, int64_t features, bool needed, const char* what) {
    if (given.size() != 4) throw std::invalid_argument("a series is an address, two strides and its features");
    first = at<float>(uintptr_t(given[0])), time_stride = given[1], sample_stride = given[2];
    if (!first && !needed) return;
    if (given[3] != features) refuse_length(given[3], features, std::string("each step of ") + what);
    if (!first || time_stride < 0 || sample_stride < 0)
      throw std::invalid_argument(std::string(what) + " has no memory that the kernels could use");
  }

  float* operator()(int64_t t) const { return first + t * time_stride; }
};

// The surviving input and state weights and torch's two biases; null where there is none.
struct Tensors {
  float *input, *state, *input_bias, *state_bias;

  Tensors(const RecurrentLayer& layer, const Addresses& given, bool gradients) {
    if (count_of(given) != 4) throw std::invalid_argument("a recurrent layer has four tensors");
    const int64_t lengths[] = {int64_t(layer.input_places().size()), int64_t(layer.state_places().size()),
                               int64_t(layer.gates()) * layer.units(), int64_t(layer.gates()) * layer.units()};
    float** found[] = {&input, &state, &input_bias, &state_bias};
    for (size_t i = 0; i < 4; ++i)
      *found[i] = array_at(given, i, lengths[i], i < 2 && !gradients, [i] {
        const char* names[] = {"`values_ih`", "`values_hh`", "`bias_ih`", "`bias_hh`"};
        return std::string(names[i]) + " of a recurrent layer";
      });
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

using Strided = std::vector<int64_t>;

// What does not fit a layer and a batch before anything is computed. Returns the tiles of the batch.
int32_t check_batch(int64_t steps, int64_t samples, int chunks) {
  if (steps < 1 || samples < 1) throw std::invalid_argument("a sequence needs at least one step and one sample");
  const int32_t tiles = tiles_of(samples);
  if (chunks < 1 || chunks > tiles) throw std::invalid_argument("there must be as many chunks as tiles, or fewer");
  return tiles;
}

int64_t work_floats(const RecurrentLayer& layer, int64_t steps, int64_t samples) {
  return layer.rows(steps, true) * tiles_of(samples) * kTileSamples;
}

// `states`: the first h and c; `last`: room for the last ones.
void forward(const RecurrentLayer& layer, const Addresses& tensors, const Strided& x, int64_t steps, int64_t samples,
             bool reverse, const Addresses& states_given, uintptr_t work, int64_t work_length, int chunks, int threads,
             const Strided& out, const Addresses& last) {
  const Tables t = tables();
  const bool keep = work != 0;
  const int32_t tiles = check_batch(steps, samples, chunks);
  const int64_t units = layer.units(), state = samples * units;
  if (keep) room_at(work, work_length, work_floats(layer, steps, samples), "the workspace");
  const Series input(x, layer.inputs(), true, "the input"), output(out, units, true, "the output");
  const Tensors weights(layer, tensors, false);
  if (count_of(states_given) != 2 || count_of(last) != 2) throw std::invalid_argument("there are two states, h and c");
  const auto first_state = [] { return std::string("a first state"); };
  const auto last_state = [] { return std::string("a last state"); };
  float *h0 = array_at(states_given, 0, state, false, first_state), *c0 = array_at(states_given, 1, state, false, first_state);
  float *hn = array_at(last, 0, state, true, last_state), *cn = array_at(last, 1, layer.gru() ? 0 : state, true, last_state);
  float* numbers = scratch(Scratch::numbers, layer.numbers());
  // Without a buffer to keep the activations in (inference) a thread needs room for one chunk at a time.
  const int64_t room = keep ? 0 : layer.rows(steps, false) * Chunk::widest(tiles, chunks);
  float* buffer = keep ? at<float>(work) : scratch(Scratch::activations, room * std::clamp(threads, 1, chunks));
  assemble(layer, weights, numbers);
  const Packer& states = layer.state_packer();
  each_chunk(tiles, chunks, threads, [&](Chunk chunk, int thread) {
    const Chunk place = keep ? chunk : Chunk{0, chunk.tiles};
    const RecurrentLayer::Trace trace = layer.trace(buffer + room * thread, place, steps, keep);
    start(t, states, h0, units, samples, chunk, layer.h(trace, 0, keep));
    if (!layer.gru()) start(t, states, c0, units, samples, chunk, trace.state);
    for (int64_t s = 0; s < steps; ++s) {
      const int64_t time = reverse ? steps - 1 - s : s;
      layer.input_packer().pack(t, input(time), input.sample_stride, samples, chunk, trace.x(keep ? s : s & 1));
      layer.forward(t, numbers, trace, s, keep);
      states.unpack(t, layer.h(trace, s + 1, keep), samples, chunk, output(time), output.sample_stride);
    }
    states.unpack(t, layer.h(trace, steps, keep), samples, chunk, hn, units);
    if (!layer.gru())
      states.unpack(t, trace.state + steps * trace.state_stride, samples, chunk, cn, units);
  });
}

// `dstates`: the gradients of the last h and c; `found`: room for those of the first ones.
void backward(const RecurrentLayer& layer, const Addresses& tensors, uintptr_t work, int64_t work_length,
              int64_t steps, int64_t samples, bool reverse, int chunks, int threads, const Strided& dy,
              const Addresses& dstates, const Addresses& gradients, const Strided& dx, const Addresses& found) {
  const Tables t = tables();
  const int32_t tiles = check_batch(steps, samples, chunks);
  const int64_t state = samples * layer.units();
  room_at(work, work_length, work_floats(layer, steps, samples), "the workspace");
  const Series output(dy, layer.units(), false, "the output's gradient"), input(dx, layer.inputs(), false, "the input's gradient");
  const Tensors weights(layer, tensors, false), wanted(layer, gradients, true);
  if (count_of(dstates) != 2 || count_of(found) != 2) throw std::invalid_argument("there are two states, h and c");
  const auto name = [] { return std::string("the gradient of a state"); };
  float *dhn = array_at(dstates, 0, state, false, name), *dcn = array_at(dstates, 1, layer.gru() ? 0 : state, false, name);
  float *dh0 = array_at(found, 0, state, false, name), *dc0 = array_at(found, 1, state, false, name);
  const int64_t units = layer.units(), entries = layer.first_bias(), numbers = layer.numbers();
  const int team = std::clamp(threads, 1, chunks);
  // Floats that each thread needs: its sums of gradients, then rows of one chunk.
  int64_t room = 0;
  for (int c = 0; c < chunks; ++c) {
    const int32_t width = Chunk::of(tiles, c, chunks).width();
    room = std::max(room, (3 * units + layer.inputs() + layer.ring_rows(width)) * width);
  }
  const int64_t each = (numbers + room + 31) / 32 * 32;
  float* back = scratch(Scratch::numbers, std::max(numbers, entries));
  float* own = scratch(Scratch::gradients, team * each + numbers);
  float* values = own + team * each;
  assemble(layer, weights, values);
  layer.transpose(t, values, {0, layer.count()}, back);
  for (int i = 0; i < team; ++i) std::fill_n(own + i * each, numbers, 0.0f);
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
    start(t, states, layer.gru() ? nullptr : dcn, units, samples, chunk, carry);
    if (dhn) states.pack(t, dhn, units, samples, chunk, dlast);
    const int64_t block = RecurrentLayer::steps_at_once(width);
    int64_t end = steps;
    for (int64_t s = steps; s-- > 0;) {
      const int64_t time = reverse ? steps - 1 - s : s;
      if (output.first) states.pack(t, output(time), output.sample_stride, samples, chunk, dout);
      layer.backward(t, back, trace, ring, s, output.first ? dout : nullptr, dhn ? dlast : nullptr, carry);
      if (input.first) {
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
      states.unpack(t, dlast, samples, chunk, dh0, units);
    }
    if (dc0) states.unpack(t, carry, samples, chunk, dc0, units);
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
      .def("work_floats", &work_floats)
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
