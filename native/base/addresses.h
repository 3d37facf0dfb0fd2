// How tensors and places come from Python: as addresses with lengths, and as views. src/secateur/sparse/ has checked
// their types and strides; whether they are as long as the kernels will read or write is checked here.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace secateur {

// Several tensors: address and length of the first (0, 0: there is none), of the second, … An empty tensor has an
// address too, which nobody reads at.
using Addresses = std::vector<uintptr_t>;
using Positions = nanobind::ndarray<const int64_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

[[noreturn]] inline void refuse_length(int64_t got, int64_t expected, const std::string& what) {
  throw std::invalid_argument(what + " must have " + std::to_string(expected) + " numbers, got " + std::to_string(got));
}

inline void require_length(int64_t got, int64_t expected, const char* what) {
  if (got != expected) refuse_length(got, expected, what);
}

// Of the tensors given, how many there are.
inline size_t count_of(const Addresses& given) {
  if (given.size() % 2) throw std::invalid_argument("each tensor comes as an address and a length");
  return given.size() / 2;
}

// Tensor `index`, which has exactly `length` numbers; null where there is none, unless it is needed, and where it is
// empty. `name` is asked only for the message.
template <class Name>
float* array_at(const Addresses& given, size_t index, int64_t length, bool needed, Name&& name) {
  const uintptr_t address = given[2 * index];
  const int64_t got = int64_t(given[2 * index + 1]);
  if (!address && !got && !needed) return nullptr;
  if (got != length) refuse_length(got, length, name());
  if (!length) return nullptr;
  if (!address) throw std::invalid_argument(name() + " has no memory that the kernels could read");
  return at<float>(address);
}

// One buffer of a call that must have room for at least `length` numbers.
inline float* room_at(uintptr_t address, int64_t got, int64_t length, const char* what) {
  if (got < length || (length && !address)) refuse_length(address ? got : 0, length, what);
  return at<float>(address);
}

}  // namespace secateur
