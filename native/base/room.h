// Memory for floats: rooms that only grow, since allocating them at each call would fault in their pages.

#pragma once

#include <cstdint>

#include "base/pages.h"

namespace secateur {

// Floats aligned to pages.
class Room {
 public:
  // At least `count` floats, in the place given before if that is large enough; what was in them may be lost.
  float* floats(int64_t count);
  // The same, all zero.
  float* zeros(int64_t count);
  float* at() const { return floats_.get(); }
  int64_t bytes() const { return 4 * size_; }
  void release() { floats_.reset(), size_ = 0; }

 private:
  Pages<float> floats_;
  int64_t size_ = 0;
};

// What a thread's floats are for. Uses that overlap have slots of their own.
enum class Scratch { activations, gradients, numbers, places, winograd, pooling };
constexpr int kScratchSlots = 6;

// Floats that live until the thread ends or releases them; calls with other slots get others.
float* scratch(Scratch slot, int64_t floats);

// Of this thread and of the threads that work for it.
int64_t scratch_bytes(int threads);
void release_scratch(int threads);

}  // namespace secateur
