// Bytes by asymmetric numeral systems (Duda, arXiv:1311.2540): each costs what its frequency says.
//
// Frequencies add up to 2^scale, scale from 1 to 14. One or four states of 32 bits take turns; words of 16 bits leave and
// enter. secateur/coding/_symbols.py is the same in Python, byte for byte.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace secateur {

constexpr uint32_t lowest_state = uint32_t{1} << 16;
constexpr int largest_scale = 14;

std::vector<uint8_t> encode_symbols(const uint8_t* symbols, int64_t size, const uint32_t* frequencies, int scale, int lanes);

// Returns why the bytes are not what an encoder wrote; empty where they are.
std::string decode_symbols(const uint8_t* bytes, int64_t bytes_size, const uint32_t* frequencies, int scale, int lanes,
                           uint8_t* symbols, int64_t size);

// The same for prefix codes: `lengths` of 256 canonical codes, at most 31 bits, the first bit in the highest of a byte.
std::vector<uint8_t> encode_prefixes(const uint8_t* symbols, int64_t size, const uint8_t* lengths);
std::string decode_prefixes(const uint8_t* bytes, int64_t bytes_size, const uint8_t* lengths, uint8_t* symbols,
                            int64_t size);

}  // namespace secateur
