// Which instructions multiply blocks of bfloat16 here, chosen while the program runs.

#pragma once

#include <string>
#include <vector>

#include "half/kernels.h"

namespace secateur::half {

// Names of the sets that this build, this processor and the set in use (base/isa.h) allow, the plainest first:
// "portable", "avx2" or "avx512", then "avx512_bf16" and "amx". The operating system is asked for AMX's tiles.
std::vector<std::string> supported_sets();

// The set in use: AMX where there is one; else what is faster here, numbers as float32 or as pairs, which is timed once.
std::string current_set();
const Kernels& current_kernels();

// For tests and measurements; "" for the choice of this machine. Throws std::invalid_argument for others.
void use_set(const std::string& name);

}  // namespace secateur::half
