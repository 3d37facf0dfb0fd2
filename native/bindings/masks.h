// How masks come from Python, and how numbers go there.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <vector>

#include "base/flags.h"

namespace secateur {

using Flags = nanobind::ndarray<const bool, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using Matrix = nanobind::ndarray<const bool, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
template <class T>
using Array = nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>;

// Gives the numbers to Python, which frees them.
template <class T>
Array<T> array(std::vector<T>&& numbers) {
  auto* held = new std::vector<T>(std::move(numbers));
  nanobind::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Array<T>(held->data(), {held->size()}, owner);
}

inline const bool* flags(const Flags& given, size_t expected) {
  if (given.size() != expected) throw std::invalid_argument("a flag is needed for each row and each column");
  return given.data();
}

inline Taken taken(const Matrix& mask, const Flags& rows, const Flags& columns) {
  return {mask.data(), int64_t(mask.shape(0)), int64_t(mask.shape(1)), flags(rows, mask.shape(0)),
          flags(columns, mask.shape(1))};
}

}  // namespace secateur
