// What Python's sparse modules call: the forward and the backward pass of a chain of sparse linear layers.
// Tensors come as addresses; src/secateur/sparse/ has checked their types, shapes and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include "base/addresses.h"
#include "base/room.h"
#include "net/sparse_chain.h"

namespace nb = nanobind;

namespace secateur {
namespace {

std::vector<const float*> floats(const Addresses& addresses) {
  std::vector<const float*> found;
  for (uintptr_t address : addresses) found.push_back(at<const float>(address));
  return found;
}


void forward(const SparseChain& chain, const Addresses& values, const Addresses& biases, uintptr_t x, int64_t stride,
             int64_t samples, uintptr_t work, uintptr_t out, int64_t out_stride, int threads) {
  const auto v = floats(values), b = floats(biases);
  const int64_t ld = SparseChain::leading_dimension(samples);
  // Without a buffer to keep the activations in (inference) they need not outlive the call.
  float* buffer = work ? at<float>(work) : scratch(0, chain.work_floats(samples));
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  Barrier barrier;
  run_team(chain.threads_worth(threads, samples), [&](int thread, int team) {
    const Part part(kernels, barrier, thread, team, tiles_of(samples));
    chain.infer(part, v.data(), b.data(), at<const float>(x), stride, samples, buffer, ld, at<float>(out), out_stride);
  });
}

// One sample: vectors, nothing packed or padded.
void forward_vector(const SparseChain& chain, const Addresses& values, const Addresses& biases, uintptr_t x,
                    uintptr_t out, int threads) {
  const auto v = floats(values), b = floats(biases);
  float* buffer = scratch(0, chain.work_floats(1));
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  Barrier barrier;
  run_team(chain.threads_worth(threads, 1), [&](int thread, int team) {
    const float* input = at<const float>(x);
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      float* output = last ? at<float>(out) : buffer + chain.first_row(i + 1);
      const Product product = chain.layer(i).forward(v[i], input, b[i], !last, output, 1);
      const Range rows = chain.layer(i).forward_rows(thread, team);
      kernels.multiply_vector(product, int32_t(rows.begin), int32_t(rows.end));
      barrier.wait(team);
      input = output;
    }
  });
}

void backward(const SparseChain& chain, const Addresses& values, uintptr_t work, uintptr_t dy, int64_t dy_stride,
              int64_t samples, const Addresses& dvalues, const Addresses& dbiases, uintptr_t dx, int64_t dx_stride,
              int threads) {
  const auto v = floats(values);
  const int64_t ld = SparseChain::leading_dimension(samples);
  const int32_t tiles = tiles_of(samples);
  float* gradients = scratch(1, chain.work_floats(samples));
  float* transposed = scratch(2, chain.first_entry(chain.size()));
  const float* activations = at<const float>(work);
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  const size_t first = dx ? 0 : 1;
  Barrier barrier;
  run_team(chain.threads_worth(threads, samples), [&](int thread, int team) {
    const Part part(kernels, barrier, thread, team, tiles);
    const size_t last = chain.size();
    chain.layer(last - 1).pack_gradient(kernels, at<const float>(dy), dy_stride, samples, part.row_part,
                                        part.row_parts, part.my_tiles, gradients + chain.first_row(last) * ld, ld);
    chain.transpose_values(part, v.data(), first, transposed);
    part.wait();
    chain.backward(part, v.data(), transposed, activations, first, gradients, ld);
    if (dx && part.row_part == 0)
      kernels.unpack(gradients, ld, chain.layer(0).columns(), samples, int32_t(part.my_tiles.begin),
                     int32_t(part.my_tiles.end), at<float>(dx), dx_stride);
    part.wait();
    for (size_t i = 0; i < last; ++i) {
      const SparseLayer& layer = chain.layer(i);
      const float* g = gradients + chain.first_row(i + 1) * ld;
      const Range entries = share(layer.count(), thread, team, 16);
      if (dvalues[i])
        layer.gradient(kernels, g, activations + chain.first_row(i) * ld, ld, tiles, entries,
                       at<float>(dvalues[i]) + entries.begin);
      const Range rows = share(layer.rows(), thread, team);
      if (dbiases[i])
        kernels.row_sums(g, ld, int32_t(rows.begin), int32_t(rows.end), tiles, at<float>(dbiases[i]));
    }
  });
}

}  // namespace

void bind_sparse_linear(nb::module_& module) {
  nb::class_<SparseLayer>(module, "SparseLayer", "Where the weights of one masked linear layer are.")
      .def(
          "__init__",
          [](SparseLayer* self, int64_t rows, int64_t columns, Positions positions, Positions edges, bool blocks) {
            new (self) SparseLayer(rows, columns, positions.data(), int64_t(positions.size()), edges.data(),
                                   int64_t(edges.size()), blocks);
          },
          nb::arg("rows"), nb::arg("columns"), nb::arg("positions"), nb::arg("edges"), nb::arg("blocks") = false)
      .def_prop_ro("alive_rows", &SparseLayer::alive_rows)
      .def_prop_ro("alive_columns", &SparseLayer::alive_columns);
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<SparseChain>(module, "SparseChain", "Sparse linear layers with a ReLU between them.")
      .def(nb::init<std::vector<std::shared_ptr<const SparseLayer>>>(), nb::arg("layers"))
      .def("work_floats", &SparseChain::work_floats, nb::arg("samples"))
      .def("forward", &forward, Release())
      .def("forward_vector", &forward_vector, Release())
      .def("backward", &backward, Release());
}

}  // namespace secateur
