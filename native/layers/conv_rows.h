// The kept weights of a convolution as rows of taps: one row for each channel that is written, and blocks of four rows
// where they read so much in common that loading an input once for all four is worth computing with zeros.

#pragma once

#include <cstdint>
#include <vector>

#include "base/team.h"
#include "kernels/conv_kernels.h"

namespace secateur {

// One channel after another of an activation or a gradient, for tiles of 16 samples; strides in floats.
struct Planes {
  float* at;  // tile 0, channel 0, position (0, 0)
  int64_t tile, channel, row, step;
};

// The positions that a convolution writes, and how far apart they and the ones that they read are.
struct ConvSweep {
  int32_t height, width, tiles;
  int64_t x_row, y_row, y_step;  // in floats
  int64_t x_step;                // in positions
  bool by_rows = false;          // threads share the rows, however many positions there are
};

// Makes one channel of one tile where a thread can read it: up to four at once, each in its slot.
class MadeChannels {
 public:
  virtual const float* make(int32_t tile, int32_t channel, int slot) const = 0;

 protected:
  ~MadeChannels() = default;
};

class ConvRows {
 public:
  std::vector<int32_t> starts, offsets;  // row r's taps: starts[r] … starts[r + 1]
  std::vector<int32_t> order;            // where each tap's value is in storage
  std::vector<int32_t> channels;         // that each tap reads, ascending in a row

  // Once the offsets are known. `channel_bytes`: what 16 positions touch of one channel, or 0.
  void find_blocks(int64_t channel_bytes);
  // For `gradient`: what `rows` rows of positions read of one channel.
  void find_slabs(int64_t channel_bytes, int32_t rows);
  // How many groups of positions a sweep of single rows makes of these; a multiple of the tiles.
  static int64_t groups_of(const ConvSweep&, int32_t accumulators);
  int32_t rows() const { return int32_t(starts.size()) - 1; }
  // Floats of the values in this object's order: those of single rows, then those of blocks.
  int64_t floats() const { return int64_t(order.size() + block_order_.size()); }
  // The rows that `convolve` computes for part `index` of `parts` of them, where threads share rows and not positions.
  std::vector<int32_t> rows_of(int index, int parts) const;
  void arrange(const float* values, int index, int parts, float* out) const;
  void arrange_blocks(const float* values, int index, int parts, float* out) const;

  // `singles` and `blocks`: the two parts of the values.
  void convolve(const ConvKernels&, const float* singles, const float* blocks, const float* bias, bool relu, bool add, const Planes& x,
                const Planes& y, const ConvSweep&, int index, int parts) const;
  // The gradients of this part's rows, written to their places in storage. `scratch`: floats() floats for the team,
  // and 16 more for each row; `row_bytes`: what one row of positions reads.
  // `made`: not null where dy is not stored; then only dy's strides are read, and tiles_at_once is 1.
  void gradient(const ConvKernels&, const Planes& x, const Planes& dy, const ConvSweep&, int64_t row_bytes,
                int32_t tiles_at_once, const MadeChannels* made, int index, int parts, float* scratch,
                float* out) const;

 private:
  // Something that one thread computes: rows [first, last) on their own, or the one block `block`.
  struct Unit {
    int32_t first, last, block;
  };

  // The taps of row r that read chunk c of the channels: at[c · rows + r] … at[(c + 1) · rows + r].
  struct Cuts {
    int32_t count = 1;
    std::vector<int32_t> at;
  };

  Cuts cut(int64_t channel_bytes, int64_t least_taps) const;
  Range part_of(const std::vector<int64_t>& work, int index, int parts) const;
  template <class Body>
  void each_place(const ConvSweep&, const Planes& x, const Planes& y, int32_t limit, const std::vector<int64_t>& work,
                  int index, int parts, Body body) const;

  std::vector<int32_t> block_starts_, block_offsets_, block_rows_, block_order_;
  std::vector<Unit> singles_;
  // Single rows are computed chunk by chunk of the channels read; slabs are those of their gradients.
  Cuts chunks_, slabs_;
  int32_t slab_rows_ = 0;
  std::vector<int64_t> single_work_, block_work_;  // running totals
};

}  // namespace secateur
