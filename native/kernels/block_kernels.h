// Layers whose surviving weights are blocks of four outputs of one input. One line of activations serves four
// multiply-adds there, which is the only way past the bandwidth of the second-level cache (docs/blocks.md).
//
// Groups of four rows are numbered 0, 1, …; up to three rows at the end, the rest, are kept entry by entry. The
// four values of a block are consecutive, blocks come before the rest.
//
// Include it only from kernel files (see isa.h).

#pragma once

#include "kernels/sparse_kernels.h"

namespace secateur::SECATEUR_ISA {

// y of the groups [group0, group1).
void multiply_blocks(const Product&, int32_t group0, int32_t group1, int32_t tile0, int32_t tile1);
// y of the rows [row0, row1), which are columns of the layer.
void multiply_transposed_blocks(const Product&, int32_t row0, int32_t row1, int32_t tile0, int32_t tile1);
void multiply_vector_blocks(const Product&, int32_t group0, int32_t group1);
void sampled_blocks(const SampledProduct&, int64_t k0, int64_t k1, int32_t tile0, int32_t tile1, float* out,
                    bool accumulate);

}  // namespace secateur::SECATEUR_ISA
