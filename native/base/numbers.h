// Arrays of integers for indices of millions of weights: nothing is written when they are made, so that the threads that
// fill them also are the first to touch their pages.

#pragma once

#include <cstdint>

#include "base/pages.h"

namespace secateur {

class Numbers {
 public:
  Numbers() = default;
  explicit Numbers(int64_t size) : size_(size) {
    int64_t bytes = 4 * size;
    numbers_ = new_pages<int32_t>(&bytes);
  }
  int32_t* data() { return numbers_.get(); }
  const int32_t* data() const { return numbers_.get(); }
  int32_t& operator[](int64_t i) { return numbers_.get()[i]; }
  int32_t operator[](int64_t i) const { return numbers_.get()[i]; }
  int64_t size() const { return size_; }

 private:
  Pages<int32_t> numbers_;
  int64_t size_ = 0;
};

}  // namespace secateur
