// A binary range coder: each bit costs what its probability says, to a thousandth of a bit.
//
// Probabilities are of a one, in 65,536ths, from 1 to 65,535. The encoder's interval is [low, low + range) in 64 bits;
// words of 32 bits leave it from the top, highest byte first, and a carry goes back into those that have left.
// secateur/coding/_ranges.py is the same in Python, byte for byte.

#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace secateur {

constexpr int probability_bits = 16;
constexpr uint64_t shortest_range = uint64_t{1} << 32;

class RangeEncoder {
 public:
  void write(bool bit, uint32_t probability) {
    const uint64_t bound = (range_ >> probability_bits) * probability;
    if (bit) {
      range_ = bound;
    } else {
      low_ += bound;
      if (low_ < bound) carry();
      range_ -= bound;
    }
    while (range_ < shortest_range) {
      put(4);
      low_ <<= 32;
      range_ <<= 32;
    }
  }

  // The fewest bytes that, followed by zeros, are a number of the interval.
  std::vector<uint8_t> finish() {
    for (int bytes = 0; bytes <= 8; ++bytes) {
      const uint64_t rest = bytes == 8 ? 0 : ~uint64_t{0} >> (8 * bytes);
      const uint64_t value = (low_ + rest) & ~rest;
      if (value - low_ >= range_) continue;
      if (value < low_) carry();
      low_ = value;
      put(bytes);
      break;
    }
    while (!out_.empty() && out_.back() == 0) out_.pop_back();
    return std::move(out_);
  }

 private:
  void put(int bytes) {
    for (int i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(low_ >> (56 - 8 * i)));
  }

  void carry() {
    for (size_t i = out_.size(); i-- > 0;) {
      if (++out_[i] != 0) return;
    }
  }

  uint64_t low_ = 0;
  uint64_t range_ = ~uint64_t{0};
  std::vector<uint8_t> out_;
};

// Reads what the encoder wrote; behind the end it reads zeros. Whatever the bytes are, it gives some bits.
class RangeDecoder {
 public:
  RangeDecoder(const uint8_t* bytes, size_t size) : at_(bytes), end_(bytes + size) {
    code_ = next() << 32;
    code_ |= next();
  }

  bool read(uint32_t probability) {
    const uint64_t bound = (range_ >> probability_bits) * probability;
    const bool bit = code_ < bound;
    code_ -= bit ? 0 : bound;
    range_ = bit ? bound : range_ - bound;
    while (range_ < shortest_range) {
      code_ = code_ << 32 | next();
      range_ <<= 32;
    }
    return bit;
  }

  // Whether all bytes were needed.
  bool done() const { return at_ == end_; }

 private:
  uint64_t next() {
    uint64_t word = 0;
    for (int i = 0; i < 4; ++i) word = word << 8 | (at_ < end_ ? *at_++ : 0);
    return word;
  }

  const uint8_t* at_;
  const uint8_t* end_;
  uint64_t code_ = 0;
  uint64_t range_ = ~uint64_t{0};
};

}  // namespace secateur
