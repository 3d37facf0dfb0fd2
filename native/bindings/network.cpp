// What Python calls of SparseNet and PlaneNet. Tensors come as addresses with lengths; src/secateur/sparse/ has checked
// their types and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>

#include <array>

#include "base/addresses.h"
#include "net/plane_net.h"
#include "net/sparse_net.h"

namespace nb = nanobind;

namespace secateur {
namespace {

// The tensors of a network's slots, or gradients of them, of which none is needed.
std::vector<float*> floats(const Addresses& given, const std::vector<Slot>& slots, bool gradients = false) {
  if (count_of(given) != slots.size()) throw std::invalid_argument("not every slot was given");
  std::vector<float*> found;
  for (size_t i = 0; i < slots.size(); ++i)
    found.push_back(array_at(given, i, slots[i].length, slots[i].needed && !gradients, [&] {
      return std::string(gradients ? "the gradient of `" : "`") + slots[i].name + "` (tensor " + std::to_string(i) +
             " of the layers)";
    }));
  return found;
}

// A batch that is read, of images as `b`.
template <class Image>
const float* batch_of(const Image& b, uintptr_t address, int64_t length, int64_t samples, const char* what) {
  if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
  require_length(length, samples * b.features(), what);
  return room_at(address, length, length, what);
}

// input channels, output channels, groups, height, width, kernel, stride, padding, dilation (y before x)
template <class Net>
int convolution(Net& net, int input, const std::array<int32_t, 13>& s, Positions positions, bool relu) {
  const ConvShape shape{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12]};
  return net.add_convolution(input, shape, positions.data(), int64_t(positions.size()), relu);
}

// height, width, kernel, stride, padding (y before x)
template <class Net>
int pool(Net& net, int input, const std::array<int32_t, 8>& s, bool maximum, bool counts_padding) {
  return net.add_pool(input, {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], counts_padding}, maximum);
}

void forward(const SparseNet& net, const Addresses& slots, uintptr_t x, int64_t x_length, int64_t samples,
             bool training, uintptr_t work, int64_t work_length, uintptr_t out, int64_t out_length, int threads, bool split) {
  const auto values = floats(slots, net.slots());
  const float* input = batch_of(net.input(), x, x_length, samples, "the input");
  const NetLayout layout = net.layout(samples);
  float* room = room_at(work, work_length, layout.forward_floats, "the workspace");
  float* output = room_at(out, out_length, samples * net.output().features(), "the output");
  Barrier barrier;
  run_team(net.threads_worth(threads, samples), [&](int thread, int team) {
    const NetCall call{layout, room, values, nullptr, training, false, barrier, thread, team, net.grid(team, layout),
                       nullptr, nullptr, 0, split ? split_kernels() : nullptr};
    net.pack_input(call, input);
    net.forward(call);
    net.unpack_output(call, output);
  });
}

void backward(const SparseNet& net, const Addresses& slots, const Addresses& gradients, uintptr_t dy,
              int64_t dy_length, int64_t samples, bool training, uintptr_t work, int64_t work_length, uintptr_t dx,
              int64_t dx_length, int threads, bool split) {
  const auto values = floats(slots, net.slots()), wanted = floats(gradients, net.slots(), true);
  const NetLayout layout = net.layout(samples);
  const float* from = batch_of(net.output(), dy, dy_length, samples, "the output's gradient");
  float* room = room_at(work, work_length, layout.floats, "the workspace");
  if (dx) room_at(dx, dx_length, samples * net.input().features(), "the input's gradient");
  net.index_gradients(dx != 0, threads);
  Barrier barrier;
  run_team(net.threads_worth(threads, samples), [&](int thread, int team) {
    const NetCall call{layout, room, values, &wanted, training, dx != 0, barrier, thread, team,
                       net.grid(team, layout), nullptr, nullptr, 0, split ? split_kernels() : nullptr};
    net.pack_output_gradient(call, from);
    net.prepare_backward(call);
    call.wait();
    net.backward(call);
    if (dx) net.unpack_input_gradient(call, at<float>(dx));
  });
}

void forward_planes(const PlaneNet& net, const Addresses& slots, uintptr_t x, int64_t x_length, int64_t samples, bool,
                    uintptr_t work, int64_t work_length, uintptr_t out, int64_t out_length, int threads, bool) {
  if (!net.finished()) throw std::invalid_argument("the network is not finished");
  const auto values = floats(slots, net.slots());
  const float* input = batch_of(net.input(), x, x_length, samples, "the input");
  float* room = room_at(work, work_length, net.floats(samples), "the workspace");
  float* output = room_at(out, out_length, samples * net.output().features(), "the output");
  Barrier barrier;
  run_team(net.threads_worth(threads, samples), [&](int thread, int team) {
    net.forward(barrier, thread, team, values, input, samples, room, output);
  });
}

template <class Net>
std::array<int32_t, 3> shape_of(const Net& net, int buffer) {
  const auto& b = net.image(buffer);
  return {b.channels, b.height, b.width};
}

}  // namespace

void bind_sparse_net(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<SparseNet>(module, "SparseNet", "A network whose activations stay in the convolutions' layout.")
      .def(nb::init<int32_t, int32_t, int32_t>(), nb::arg("channels"), nb::arg("height"), nb::arg("width"))
      .def("convolution", &convolution<SparseNet>)
      .def("linear", &SparseNet::add_linear)
      .def("norm", &SparseNet::add_norm)
      .def("copy", &SparseNet::add_copy)
      .def("sum", &SparseNet::add_sum)
      .def("pool", &pool<SparseNet>)
      .def("finish", &SparseNet::finish, nb::arg("output"), nb::arg("flat"))
      .def_prop_ro("full_bytes", &SparseNet::full_bytes)
      .def("shape", &shape_of<SparseNet>)
      .def("work_floats", [](const SparseNet& net, int64_t samples, bool training) {
             const NetLayout layout = net.layout(samples);
             return training ? layout.floats : layout.forward_floats;
           })
      .def("forward", &forward, Release())
      .def("backward", &backward, Release());
  nb::class_<PlaneNet>(module, "PlaneNet", "A network for few samples, forward only.")
      .def(nb::init<int32_t, int32_t, int32_t, int64_t>(), nb::arg("channels"), nb::arg("height"), nb::arg("width"),
           nb::arg("samples"))
      .def("convolution", &convolution<PlaneNet>)
      .def("linear", [](PlaneNet& net, int input, std::shared_ptr<const SparseLayer> layer, bool relu, bool) {
             return net.add_linear(input, std::move(layer), relu);
           })
      .def("copy", [](PlaneNet& net, int input, bool) { return net.add_relu(input); })
      .def("sum", &PlaneNet::add_sum)
      .def("pool", &pool<PlaneNet>)
      .def("finish", [](PlaneNet& net, int output, bool) { net.finish(output); })
      .def("shape", &shape_of<PlaneNet>)
      .def("work_floats", [](const PlaneNet& net, int64_t samples, bool) { return net.floats(samples); })
      .def("forward", &forward_planes, Release());
  module.def("splits_products", [] { return split_kernels() != nullptr; },
             "Whether products of float32 can be taken of two halves of bfloat16 here.");
}

}  // namespace secateur
