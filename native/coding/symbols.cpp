#include "coding/symbols.h"

#include <stdexcept>

namespace secateur {
namespace {

constexpr int alphabet = 256;

struct Slot {
  uint16_t frequency;
  uint16_t offset;  // within the symbol's slots
  uint8_t symbol;
};

void require(const uint32_t* frequencies, int scale, int lanes) {
  uint64_t total = 0;
  for (int symbol = 0; symbol < alphabet; ++symbol) total += frequencies[symbol];
  if (scale < 1 || scale > largest_scale || total != uint64_t{1} << scale || (lanes != 1 && lanes != 4))
    throw std::invalid_argument("frequencies must add up to 2^scale, scale 1 to 14, with 1 or 4 lanes");
}

std::vector<Slot> slots_of(const uint32_t* frequencies, int scale) {
  std::vector<Slot> slots(size_t{1} << scale);
  size_t at = 0;
  for (int symbol = 0; symbol < alphabet; ++symbol) {
    for (uint32_t i = 0; i < frequencies[symbol]; ++i)
      slots[at++] = {static_cast<uint16_t>(frequencies[symbol]), static_cast<uint16_t>(i), static_cast<uint8_t>(symbol)};
  }
  return slots;
}

}  // namespace

std::vector<uint8_t> encode_symbols(const uint8_t* symbols, int64_t size, const uint32_t* frequencies, int scale, int lanes) {
  require(frequencies, scale, lanes);
  uint32_t starts[alphabet], at = 0;
  for (int symbol = 0; symbol < alphabet; ++symbol) {
    starts[symbol] = at;
    at += frequencies[symbol];
  }
  std::vector<uint32_t> states(lanes, lowest_state);
  std::vector<uint16_t> words;
  for (int64_t i = size; i-- > 0;) {
    uint32_t& state = states[i % lanes];
    const uint32_t frequency = frequencies[symbols[i]];
    if (frequency == 0) throw std::invalid_argument("a symbol has no frequency");
    if (state >= uint64_t{frequency} << (32 - scale)) {
      words.push_back(static_cast<uint16_t>(state));
      state >>= 16;
    }
    state = (state / frequency << scale) + state % frequency + starts[symbols[i]];
  }
  std::vector<uint8_t> out;
  out.reserve(4 * states.size() + 2 * words.size());
  for (uint32_t state : states) {
    for (int byte = 0; byte < 4; ++byte) out.push_back(static_cast<uint8_t>(state >> (8 * byte)));
  }
  for (size_t i = words.size(); i-- > 0;) {
    out.push_back(static_cast<uint8_t>(words[i]));
    out.push_back(static_cast<uint8_t>(words[i] >> 8));
  }
  return out;
}

std::string decode_symbols(const uint8_t* bytes, int64_t bytes_size, const uint32_t* frequencies, int scale, int lanes,
                           uint8_t* symbols, int64_t size) {
  require(frequencies, scale, lanes);
  if (bytes_size < 4 * lanes || bytes_size % 2) return "has no whole states";
  const std::vector<Slot> slots = slots_of(frequencies, scale);
  uint32_t states[4];
  for (int lane = 0; lane < lanes; ++lane) {
    states[lane] = 0;
    for (int byte = 0; byte < 4; ++byte) states[lane] |= uint32_t{bytes[4 * lane + byte]} << (8 * byte);
    if (states[lane] < lowest_state) return "begins in a state that no encoder is in";
  }
  const uint8_t *at = bytes + 4 * lanes, *end = bytes + bytes_size;
  const uint32_t mask = (uint32_t{1} << scale) - 1;
  bool missing = false;
  const auto read = [&](uint32_t& state) {
    const Slot slot = slots[state & mask];
    state = slot.frequency * (state >> scale) + slot.offset;
    if (state < lowest_state) {
      missing |= at == end;
      const uint32_t word = at == end ? 0 : uint32_t{at[0]} | uint32_t{at[1]} << 8;
      at += at == end ? 0 : 2;
      state = state << 16 | word;
    }
    return slot.symbol;
  };
  int64_t i = 0;
  if (lanes == 4) {
    uint32_t a = states[0], b = states[1], c = states[2], d = states[3];
    for (; i + 4 <= size; i += 4) {
      symbols[i] = read(a);
      symbols[i + 1] = read(b);
      symbols[i + 2] = read(c);
      symbols[i + 3] = read(d);
    }
    states[0] = a, states[1] = b, states[2] = c, states[3] = d;
  }
  for (; i < size; ++i) symbols[i] = read(states[i % lanes]);
  if (missing) return "ends too early";
  if (at != end) return "has bytes left over";
  for (int lane = 0; lane < lanes; ++lane) {
    if (states[lane] != lowest_state) return "does not end where its encoder began";
  }
  return {};
}

namespace {

constexpr int longest = 31;

// Canonical codes: shorter ones first, among equals the smaller symbol; the codes of each length follow one another.
struct Canonical {
  uint32_t first[longest + 2] = {};  // code of the first symbol of a length
  int32_t count[longest + 2] = {};
  int32_t index[longest + 2] = {};  // of that symbol among `symbols`
  uint8_t symbols[alphabet] = {};
  uint32_t codes[alphabet] = {};

  explicit Canonical(const uint8_t* lengths) {
    for (int symbol = 0; symbol < alphabet; ++symbol) {
      if (lengths[symbol] > longest) throw std::invalid_argument("a code has at most 31 bits");
      if (lengths[symbol]) ++count[lengths[symbol]];
    }
    uint64_t code = 0;
    int at = 0;
    for (int length = 1; length <= longest; ++length) {
      code <<= 1;
      first[length] = static_cast<uint32_t>(code);
      index[length] = at;
      for (int symbol = 0; symbol < alphabet; ++symbol) {
        if (lengths[symbol] != length) continue;
        symbols[at++] = static_cast<uint8_t>(symbol);
        codes[symbol] = static_cast<uint32_t>(code++);
      }
      if (code > uint64_t{1} << length) throw std::invalid_argument("more codes than there is room for");
    }
  }
};

}  // namespace

std::vector<uint8_t> encode_prefixes(const uint8_t* symbols, int64_t size, const uint8_t* lengths) {
  const Canonical codes(lengths);
  std::vector<uint8_t> out;
  uint64_t held = 0;
  int bits = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int length = lengths[symbols[i]];
    if (length == 0) throw std::invalid_argument("a symbol has no code");
    held = held << length | codes.codes[symbols[i]];
    for (bits += length; bits >= 8; bits -= 8) out.push_back(static_cast<uint8_t>(held >> (bits - 8)));
  }
  if (bits) out.push_back(static_cast<uint8_t>(held << (8 - bits)));
  return out;
}

std::string decode_prefixes(const uint8_t* bytes, int64_t bytes_size, const uint8_t* lengths, uint8_t* symbols,
                            int64_t size) {
  const Canonical codes(lengths);
  int64_t at = 0;
  const int64_t end = 8 * bytes_size;
  for (int64_t i = 0; i < size; ++i) {
    uint32_t code = 0;
    int length = 1;
    for (;; ++length) {
      if (length > longest || at == end) return "ends too early, or holds a code that is none";
      code = code << 1 | (bytes[at >> 3] >> (7 - (at & 7)) & 1);
      ++at;
      if (code - codes.first[length] < static_cast<uint32_t>(codes.count[length])) break;
    }
    symbols[i] = codes.symbols[codes.index[length] + static_cast<int32_t>(code - codes.first[length])];
  }
  for (; at & 7; ++at) {
    if (bytes[at >> 3] >> (7 - (at & 7)) & 1) return "has bits set behind its last code";
  }
  return at == end ? std::string() : "has bytes left over";
}

}  // namespace secateur
