// What Python's sparse modules call: the forward and the backward pass of a chain of sparse linear layers.
// Tensors come as addresses with lengths; src/secateur/sparse/ has checked their types and strides.

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <atomic>

#include "base/addresses.h"
#include "bindings/masks.h"
#include "base/room.h"
#include "net/reading_kernels.h"
#include "net/sparse_chain.h"

namespace nb = nanobind;

namespace secateur {
namespace {

// One tensor for each layer of a chain: its values, its bias, or a gradient of either.
std::vector<float*> floats(const SparseChain& chain, const Addresses& given, bool values, bool needed) {
  if (count_of(given) != chain.size()) throw std::invalid_argument("each layer of a chain needs its tensor");
  std::vector<float*> found;
  for (size_t i = 0; i < chain.size(); ++i) {
    const SparseLayer& layer = chain.layer(i);
    found.push_back(array_at(given, i, values ? layer.count() : layer.rows(), needed, [&] {
      return std::string(values ? "`values`" : "`bias`") + " of layer " + std::to_string(i) + " of the call";
    }));
  }
  return found;
}

// A matrix with one row per sample, of which Python says how many columns it has and how far apart the rows are.
struct Rows {
  uintptr_t address;
  int64_t stride, samples, columns;

  float* check(int64_t expected, const char* what) const {
    if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
    if (columns != expected) refuse_length(columns, expected, std::string("each row of ") + what);
    if (!address || stride < 0) throw std::invalid_argument(std::string(what) + " has no memory to be read");
    return at<float>(address);
  }
};

void forward(const SparseChain& chain, const Addresses& values, const Addresses& biases, uintptr_t x, int64_t stride,
             int64_t samples, int64_t columns, uintptr_t work, int64_t work_length, uintptr_t out, int64_t out_length,
             int threads) {
  const auto v = floats(chain, values, true, true), b = floats(chain, biases, false, false);
  const float* input = Rows{x, stride, samples, columns}.check(chain.layer(0).columns(), "the input");
  const int64_t classes = chain.layer(chain.size() - 1).rows(), wanted = chain.work_floats(samples);
  float* output = room_at(out, out_length, samples * classes, "the output");
  const int64_t ld = SparseChain::leading_dimension(samples);
  // Without a buffer to keep the activations in (inference) they need not outlive the call.
  float* buffer = work ? room_at(work, work_length, wanted, "the workspace") : scratch(Scratch::activations, wanted);
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  Barrier barrier;
  run_team(chain.threads_worth(threads, samples), [&](int thread, int team) {
    const Part part(kernels, barrier, thread, team, tiles_of(samples));
    chain.infer(part, v.data(), b.data(), input, stride, samples, buffer, ld, output, classes);
  });
}

// The lines of activations that `forward` reads, by the threads that read them, and nothing else: what benchmarks measure
// the roofline by. Returns their sum, which means nothing.
float read(const SparseChain& chain, int64_t samples, int threads) {
  if (samples < 1) throw std::invalid_argument("a batch needs at least one sample, got " + std::to_string(samples));
  for (size_t i = 0; i < chain.size(); ++i)
    if (chain.layer(i).of_blocks()) throw std::invalid_argument("only layers of single weights are read alone");
  const int64_t ld = SparseChain::leading_dimension(samples);
  const int32_t tiles = tiles_of(samples);
  const float* work = scratch(Scratch::activations, chain.work_floats(samples));
  const ReadingKernels& kernels = SECATEUR_TABLE(reading_kernels);
  std::atomic<float> total{0.0f};
  run_team(chain.threads_worth(threads, samples), [&](int thread, int team) {
    float mine = 0.0f;
    for (size_t i = 0; i < chain.size(); ++i) {
      const SparseLayer& layer = chain.layer(i);
      const Product p = layer.forward(nullptr, work + chain.first_row(i) * ld, nullptr, false, nullptr, ld);
      const Range rows = layer.forward_rows(thread, team);
      for (int32_t t = 0; t < tiles; t += p.pass) {
        const int at_once = std::min(p.pass, tiles - t);
        for (int32_t b = 0; b < layer.column_blocks(); ++b) {
          const Range entries = layer.entries_of(b, int32_t(rows.begin), int32_t(rows.end));
          mine += kernels.read(p.x + int64_t(t) * kTileSamples, ld, p.columns + entries.begin,
                               entries.end - entries.begin, at_once);
        }
      }
    }
    total.store(mine);
  });
  return total.load();
}

// One sample: vectors, nothing packed or padded.
void forward_vector(const SparseChain& chain, const Addresses& values, const Addresses& biases, uintptr_t x,
                    int64_t columns, uintptr_t out, int64_t out_length, int threads) {
  const auto v = floats(chain, values, true, true), b = floats(chain, biases, false, false);
  const float* first = Rows{x, 0, 1, columns}.check(chain.layer(0).columns(), "the input");
  float* end = room_at(out, out_length, chain.layer(chain.size() - 1).rows(), "the output");
  float* buffer = scratch(Scratch::activations, chain.work_floats(1));
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  Barrier barrier;
  run_team(chain.threads_worth(threads, 1), [&](int thread, int team) {
    const float* input = first;
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      float* output = last ? end : buffer + chain.first_row(i + 1);
      const Product product = chain.layer(i).forward(v[i], input, b[i], !last, output, 1);
      const Range rows = chain.layer(i).forward_rows(thread, team);
      kernels.multiply_vector(product, int32_t(rows.begin), int32_t(rows.end));
      barrier.wait(team);
      input = output;
    }
  });
}

// With `add`, gradients of weights and biases are added to what is there: the batch comes in several calls.
void backward(const SparseChain& chain, const Addresses& values, uintptr_t work, int64_t work_length, uintptr_t dy,
              int64_t dy_stride, int64_t samples, int64_t dy_columns, const Addresses& dvalues,
              const Addresses& dbiases, uintptr_t dx, int64_t dx_length, bool add, int threads) {
  const auto v = floats(chain, values, true, true);
  const auto dv = floats(chain, dvalues, true, false), db = floats(chain, dbiases, false, false);
  const size_t last = chain.size();
  const float* from = Rows{dy, dy_stride, samples, dy_columns}.check(chain.layer(last - 1).rows(), "the gradient");
  const float* activations = room_at(work, work_length, chain.work_floats(samples), "the workspace");
  const int64_t features = chain.layer(0).columns();
  if (dx) room_at(dx, dx_length, samples * features, "the input's gradient");
  const int64_t ld = SparseChain::leading_dimension(samples);
  const int32_t tiles = tiles_of(samples);
  float* gradients = scratch(Scratch::gradients, chain.work_floats(samples));
  float* transposed = scratch(Scratch::numbers, chain.first_entry(last));
  const SparseKernels& kernels = SECATEUR_TABLE(sparse_kernels);
  const size_t first = dx ? 0 : 1;
  for (size_t i = 0; i < last; ++i) chain.layer(i).prepare_gradients(i >= first, threads);
  Barrier barrier;
  run_team(chain.threads_worth(threads, samples), [&](int thread, int team) {
    const Part part(kernels, barrier, thread, team, tiles);
    chain.layer(last - 1).pack_gradient(kernels, from, dy_stride, samples, part.row_part, part.row_parts,
                                        part.my_tiles, gradients + chain.first_row(last) * ld, ld);
    chain.transpose_values(part, v.data(), first, transposed);
    part.wait();
    chain.backward(part, v.data(), transposed, activations, first, gradients, ld);
    if (dx && part.row_part == 0)
      kernels.unpack(gradients, ld, int32_t(features), samples, int32_t(part.my_tiles.begin),
                     int32_t(part.my_tiles.end), at<float>(dx), features);
    part.wait();
    for (size_t i = 0; i < last; ++i) {
      const SparseLayer& layer = chain.layer(i);
      const float* g = gradients + chain.first_row(i + 1) * ld;
      const Range entries = share(layer.count(), thread, team, 16);
      if (dv[i])
        layer.gradient(kernels, g, activations + chain.first_row(i) * ld, ld, tiles, entries, dv[i] + entries.begin,
                       add);
      const Range rows = share(layer.rows(), thread, team);
      for (int32_t r = int32_t(rows.begin); r < rows.end && db[i]; ++r) {
        float sum;
        kernels.row_sums(g + r * ld, ld, 0, 1, tiles, &sum);
        db[i][r] = add ? db[i][r] + sum : sum;
      }
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
      .def(
          "__init__",
          [](SparseLayer* self, Matrix mask, Flags rows, Flags columns, Flags counted, int64_t block_columns,
             int threads) {
            if (block_columns < 1) throw std::invalid_argument("a block has at least one column");
            new (self) SparseLayer(taken(mask, rows, columns), flags(counted, mask.shape(0)), block_columns, threads);
          },
          nb::arg("mask"), nb::arg("rows"), nb::arg("columns"), nb::arg("counted"), nb::arg("block_columns"),
          nb::arg("threads"))
      .def_prop_ro("rows", &SparseLayer::rows)
      .def_prop_ro("columns", &SparseLayer::columns)
      .def("__len__", &SparseLayer::count)
      .def("edges", [](const SparseLayer& layer) { return array(std::vector<int64_t>(layer.edges())); })
      .def_prop_ro("alive_rows", &SparseLayer::alive_rows)
      .def_prop_ro("alive_columns", &SparseLayer::alive_columns);
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<SparseChain>(module, "SparseChain", "Sparse linear layers with a ReLU between them.")
      .def(nb::init<std::vector<std::shared_ptr<const SparseLayer>>>(), nb::arg("layers"))
      .def("work_floats", &SparseChain::work_floats, nb::arg("samples"))
      .def("kept_floats", &SparseChain::kept_floats, nb::arg("samples"))
      .def("threads_worth", &SparseChain::threads_worth, nb::arg("threads"), nb::arg("samples"))
      .def("forward", &forward, Release())
      .def("forward_vector", &forward_vector, Release())
      .def("read", &read, Release(), nb::arg("samples"), nb::arg("threads"))
      .def("backward", &backward, Release());
}

}  // namespace secateur
