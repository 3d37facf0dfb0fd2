// Codes for Python: places of a matrix, and bytes. Arrays come with their types and lengths, which are compared before
// anything is read.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include "coding/learnt.h"
#include "coding/places.h"
#include "coding/range_coder.h"
#include "coding/symbols.h"

namespace secateur {
namespace {

namespace nb = nanobind;

template <class T>
using Array = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = Array<const uint8_t>;

constexpr size_t alphabet = 256;

nb::bytes as_bytes(const std::vector<uint8_t>& bytes) {
  return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

PlaceModel model_of(int64_t begin, size_t size, const Array<uint32_t>& columns, const Array<uint8_t>& above,
                    const Array<uint32_t>& context, const Array<uint16_t>& seen, const Array<uint32_t>& row) {
  if (columns.size() < 1 || above.size() != columns.size() || context.size() != contexts || seen.size() != contexts ||
      row.size() != 3 || begin < 0 || begin > (int64_t{1} << 62) || size > (uint64_t{1} << 61))
    throw std::invalid_argument("this is no model of places");
  for (size_t i = 0; i < contexts; ++i) {
    if (seen.data()[i] > slowest_context) throw std::invalid_argument("a context has seen more than it counts");
  }
  for (size_t i = 0; i < above.size(); ++i) {
    if (above.data()[i] > 1) throw std::invalid_argument("places above are 0 or 1");
  }
  if (row.data()[2] > 3) throw std::invalid_argument("two places have two bits");
  return {static_cast<int64_t>(columns.size()), columns.data(), above.data(), context.data(), seen.data(), row.data()};
}

// What each probability costs, in bits: for the bound that a file is compared with, not for the file.
const std::vector<float>& costs() {
  static const std::vector<float> table = [] {
    std::vector<float> found(65537);
    for (int i = 1; i <= 65536; ++i) found[i] = static_cast<float>(16 - std::log2(i));
    return found;
  }();
  return table;
}

std::pair<nb::bytes, double> encode_places(Bytes flags, int64_t begin, Array<uint32_t> columns, Array<uint8_t> above,
                                           Array<uint32_t> context, Array<uint16_t> seen, Array<uint32_t> row) {
  const PlaceModel model = model_of(begin, flags.size(), columns, above, context, seen, row);
  std::vector<uint8_t> out;
  double bits = 0;
  {
    nb::gil_scoped_release released;
    const float* cost = costs().data();
    RangeEncoder encoder;
    each_place_coded(model, begin, begin + static_cast<int64_t>(flags.size()), [&](int64_t place, uint32_t probability) {
      const bool bit = flags.data()[place - begin] != 0;
      encoder.write(bit, probability);
      bits += cost[bit ? probability : 65536 - probability];
      return bit;
    });
    out = encoder.finish();
  }
  return {as_bytes(out), bits};
}

bool decode_places(Bytes bytes, Array<uint8_t> flags, int64_t begin, Array<uint32_t> columns, Array<uint8_t> above,
                   Array<uint32_t> context, Array<uint16_t> seen, Array<uint32_t> row) {
  const PlaceModel model = model_of(begin, flags.size(), columns, above, context, seen, row);
  nb::gil_scoped_release released;
  RangeDecoder decoder(bytes.data(), bytes.size());
  each_place_coded(model, begin, begin + static_cast<int64_t>(flags.size()), [&](int64_t place, uint32_t probability) {
    const bool bit = decoder.read(probability);
    flags.data()[place - begin] = bit;
    return bit;
  });
  return decoder.done();
}

template <class T>
void require_alphabet(const T& table) {
  if (table.size() != alphabet) throw std::invalid_argument("there are 256 bytes");
}

nb::bytes symbols_encoded(Bytes symbols, Array<const uint32_t> frequencies, int scale, int lanes) {
  require_alphabet(frequencies);
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release released;
    out = encode_symbols(symbols.data(), static_cast<int64_t>(symbols.size()), frequencies.data(), scale, lanes);
  }
  return as_bytes(out);
}

std::string symbols_decoded(Bytes bytes, Array<const uint32_t> frequencies, int scale, int lanes,
                            Array<uint8_t> symbols) {
  require_alphabet(frequencies);
  nb::gil_scoped_release released;
  return decode_symbols(bytes.data(), static_cast<int64_t>(bytes.size()), frequencies.data(), scale, lanes,
                        symbols.data(), static_cast<int64_t>(symbols.size()));
}

nb::bytes prefixes_encoded(Bytes symbols, Bytes lengths) {
  require_alphabet(lengths);
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release released;
    out = encode_prefixes(symbols.data(), static_cast<int64_t>(symbols.size()), lengths.data());
  }
  return as_bytes(out);
}

std::string prefixes_decoded(Bytes bytes, Bytes lengths, Array<uint8_t> symbols) {
  require_alphabet(lengths);
  nb::gil_scoped_release released;
  return decode_prefixes(bytes.data(), static_cast<int64_t>(bytes.size()), lengths.data(), symbols.data(),
                         static_cast<int64_t>(symbols.size()));
}

void require_bits(int bits) {
  if (bits < 1 || bits > 8) throw std::invalid_argument("a byte has 1 to 8 bits");
}

nb::bytes learnt_encoded(Bytes symbols, int bits) {
  require_bits(bits);
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release released;
    RangeEncoder encoder;
    each_bit_learnt(bits, static_cast<int64_t>(symbols.size()), [&](int64_t index, int level, uint32_t probability) {
      const bool bit = symbols.data()[index] >> level & 1;
      encoder.write(bit, probability);
      return bit;
    });
    out = encoder.finish();
  }
  return as_bytes(out);
}

bool learnt_decoded(Bytes bytes, int bits, Array<uint8_t> symbols) {
  require_bits(bits);
  nb::gil_scoped_release released;
  RangeDecoder decoder(bytes.data(), bytes.size());
  each_bit_learnt(bits, static_cast<int64_t>(symbols.size()), [&](int64_t index, int level, uint32_t probability) {
    const bool bit = decoder.read(probability);
    uint8_t& symbol = symbols.data()[index];
    symbol = static_cast<uint8_t>((level == bits - 1 ? 0 : symbol << 1) | bit);
    return bit;
  });
  return decoder.done();
}

}  // namespace

void bind_coding(nb::module_& module) {
  using nb::arg;
  module.def("encode_places", &encode_places, arg("flags"), arg("begin"), arg("columns"), arg("above"), arg("context"),
             arg("seen"), arg("row"), "Encode flags from the place `begin` on; return the bytes, and the bits they cost.");
  module.def("decode_places", &decode_places, arg("bytes"), arg("flags"), arg("begin"), arg("columns"), arg("above"),
             arg("context"), arg("seen"), arg("row"), "Decode them; return whether all bytes were needed.");
  module.def("encode_symbols", &symbols_encoded, arg("symbols"), arg("frequencies"), arg("scale"), arg("lanes"),
             "Encode bytes by 256 frequencies.");
  module.def("decode_symbols", &symbols_decoded, arg("bytes"), arg("frequencies"), arg("scale"), arg("lanes"),
             arg("symbols"), "Decode them; return what is wrong, or an empty text.");
  module.def("encode_prefixes", &prefixes_encoded, arg("symbols"), arg("lengths"),
             "Encode bytes by the canonical prefix code of 256 lengths.");
  module.def("decode_prefixes", &prefixes_decoded, arg("bytes"), arg("lengths"), arg("symbols"),
             "Decode them; return what is wrong, or an empty text.");
  module.def("encode_learnt", &learnt_encoded, arg("symbols"), arg("bits"),
             "Encode bytes below 2^bits by what came before each.");
  module.def("decode_learnt", &learnt_decoded, arg("bytes"), arg("bits"), arg("symbols"),
             "Decode them; return whether all bytes were needed.");
}

}  // namespace secateur
