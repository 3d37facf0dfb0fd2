// Memory for floats: rooms that only grow, since allocating them at each call would fault in their pages.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace secateur {

// Floats aligned to pages.
class Room {
 public:
  // At least `count` floats, in the place given before if that is large enough; what was in them may be lost.
  float* floats(int64_t count);
  // The same, all zero.
  float* zeros(int64_t count);
  float* at() const { return floats_.get(); }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> floats_;
  int64_t size_ = 0;
};

// Floats that live until the thread ends; calls with other slots get others.
float* scratch(int slot, int64_t floats);

}  // namespace secateur
