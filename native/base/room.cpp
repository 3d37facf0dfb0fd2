#include "base/room.h"

#include <atomic>
#include <cstring>

#include "base/team.h"

namespace secateur {
namespace {

Room* rooms_of_this_thread() {
  thread_local Room rooms[kScratchSlots];
  return rooms;
}

}  // namespace

float* Room::floats(int64_t count) {
  if (size_ < count || !floats_) {
    int64_t bytes = 4 * count;
    size_ = 0;
    floats_.reset();
    floats_ = new_pages<float>(&bytes);
    size_ = bytes / 4;
  }
  return floats_.get();
}

float* Room::zeros(int64_t count) {
  std::memset(floats(count), 0, size_t(count) * sizeof(float));
  return at();
}

float* scratch(Scratch slot, int64_t floats) { return rooms_of_this_thread()[int(slot)].floats(floats); }

int64_t scratch_bytes(int threads) {
  std::atomic<int64_t> total{0};
  run_team(threads, [&](int, int) {
    const Room* rooms = rooms_of_this_thread();
    for (int slot = 0; slot < kScratchSlots; ++slot) total += rooms[slot].bytes();
  });
  return total;
}

void release_scratch(int threads) {
  run_team(threads, [](int, int) {
    Room* rooms = rooms_of_this_thread();
    for (int slot = 0; slot < kScratchSlots; ++slot) rooms[slot].release();
  });
}

}  // namespace secateur
