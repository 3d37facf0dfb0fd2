// The gradient of a convolution's input where much of the kernel reaches beyond the image: without padding, a 5×5
// kernel reads 12 rows and columns and writes 8, so that the turned kernel would read a third zeros in each direction.

#pragma once

#include <cstdint>
#include <vector>

#include "layers/conv_rows.h"

namespace secateur {

// Weights of the same column of the kernel reach the same columns of the image: they are computed together, at these
// columns alone, and added to what the others left. Of the rows, only those weights are used that reach a row.
class UnpaddedGradient {
 public:
  // A kept weight: position (row, column) of the input takes its gradient from (row + y, column + x) of the output.
  struct Tap {
    int32_t output, input, y, x, order;
  };
  struct Sizes {
    int32_t inputs, height, width, out_height, out_width;
  };

  // Whether enough of the turned kernel's work would be zeros. Only for convolutions of stride 1.
  static bool worthwhile(const Sizes& sizes, const std::vector<Tap>& taps);

  UnpaddedGradient(const Sizes& sizes, std::vector<Tap> taps);
  // Zeros that must lie above and below the output's gradient: rows are computed a few at a time.
  int32_t rows_around() const { return kMostRows - 1; }
  int64_t floats() const { return int64_t(taps_.size()); }
  // Offsets, once the strides of dy are known.
  void place(int64_t dy_channel, int64_t dy_row);
  // The values in this object's order.
  void arrange(const float* values, int index, int parts, float* out) const;
  void run(const ConvKernels&, const float* values, const Planes& dy, const Planes& dx, bool add, int32_t tiles,
           int index, int parts) const;

 private:
  static constexpr int32_t kMostRows = 2;
  // The columns that one column of the kernel reaches.
  struct Shift {
    int32_t x, first, count;
  };

  void cut();
  const int32_t* cuts_of(int32_t chunk, size_t shift, int32_t band) const;
  void run_rows(const ConvKernels&, const float* values, const Planes& dy, const Planes& dx, bool add,
                int32_t row, int32_t rows) const;
  void clear(const Planes& dx, int32_t rows) const;

  Sizes sizes_;
  std::vector<Tap> taps_;  // by chunk of outputs, column, input, row
  std::vector<int32_t> offsets_;
  std::vector<Shift> shifts_;
  int32_t first_band_ = 0, bands_ = 0, chunks_ = 1;
  // Where the taps of one input begin, for each chunk, shift and band of taps that share y.
  std::vector<int32_t> cuts_;
};

}  // namespace secateur
