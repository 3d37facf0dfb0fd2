// What x86 processors offer beyond the sets of isa.h, and whether it may be used.

#pragma once

namespace secateur {

// Whether pairs of bfloat16 can be multiplied by vdpbf16ps, with VBMI2 beside it.
bool has_pairs();

// Whether the tiles of AMX may be used, for pairs of bfloat16 at least. Linux is asked for them.
bool has_tiles();

// Another bit of cpuid's leaf 7 (registers a b c d), for what needs as much as pairs do.
bool has_leaf7(int word, int bit);

}  // namespace secateur
