// Which instruction set the kernels use, chosen while the program runs.
//
// A kernel file is compiled once per instruction set, each time into its own namespace, and exports one
// table of function pointers from it:
//
//     // scale.h
//     struct ScaleKernels { void (*scale)(float* values, int64_t count, float factor); };
//     SECATEUR_DECLARE_TABLE(ScaleKernels, scale_kernels)
//
//     // scale_kernel.cpp: compiled three times, with SECATEUR_ISA = portable, avx2 and avx512
//     #include "scale.h"
//     namespace secateur::SECATEUR_ISA {
//     static void scale(float* values, int64_t count, float factor) { ... }
//     const ScaleKernels scale_kernels = {scale};
//     }
//
//     // scale.cpp: compiled once
//     const ScaleKernels& kernels = SECATEUR_TABLE(scale_kernels);
//     kernels.scale(values, count, factor);
//
// The one rule: a kernel file must not instantiate an inline function or a template with external linkage
// (std::vector, std::sort, ...). The linker keeps a single copy of such a function for the whole module, and
// that copy may be the AVX-512 one: an illegal instruction on an older machine. Work on raw pointers, and
// give every helper internal linkage (static, or an unnamed namespace). tests/unit/test_native.py checks it.

#pragma once

#include <string>
#include <vector>

namespace secateur {

enum class Isa { portable, avx2, avx512 };

// The set in use: the best one this machine has, unless use_isa() said otherwise (_native_api.py calls it
// when the environment variable SECATEUR_ISA is set).
Isa current_isa();

// Both built into this module and understood by this processor; the portable one always is.
std::vector<Isa> supported_isas();

// Throws std::invalid_argument for an unknown name or a set that this machine lacks.
void use_isa(const std::string& name);

const char* isa_name(Isa isa);

}  // namespace secateur

#if defined(SECATEUR_HAVE_AVX2)
#define SECATEUR_IF_AVX2(text) text
#else
#define SECATEUR_IF_AVX2(text)
#endif
#if defined(SECATEUR_HAVE_AVX512)
#define SECATEUR_IF_AVX512(text) text
#else
#define SECATEUR_IF_AVX512(text)
#endif

// Put this outside any namespace, after the definition of `Table` inside namespace secateur.
#define SECATEUR_DECLARE_TABLE(Table, name)                                             \
  namespace secateur::portable { extern const Table name; }                             \
  SECATEUR_IF_AVX2(namespace secateur::avx2 { extern const Table name; })               \
  SECATEUR_IF_AVX512(namespace secateur::avx512 { extern const Table name; })

// The table of the instruction set in use.
#define SECATEUR_TABLE(name)                                                            \
  (SECATEUR_IF_AVX512(::secateur::current_isa() == ::secateur::Isa::avx512              \
                          ? ::secateur::avx512::name :)                                 \
   SECATEUR_IF_AVX2(::secateur::current_isa() == ::secateur::Isa::avx2                  \
                          ? ::secateur::avx2::name :)                                   \
   ::secateur::portable::name)
