#include "base/room.h"

#include <cstring>
#include <new>

namespace secateur {

float* Room::floats(int64_t count) {
  if (size_ < count || !floats_) {
    const int64_t bytes = (count * 4 / 4096 + 1) * 4096;
    size_ = 0;
    floats_.reset();
    floats_.reset(static_cast<float*>(std::aligned_alloc(4096, size_t(bytes))));
    if (!floats_) throw std::bad_alloc();
    size_ = bytes / 4;
  }
  return floats_.get();
}

float* Room::zeros(int64_t count) {
  std::memset(floats(count), 0, size_t(count) * sizeof(float));
  return at();
}

float* scratch(int slot, int64_t floats) {
  thread_local Room rooms[4];
  return rooms[slot].floats(floats);
}

}  // namespace secateur
