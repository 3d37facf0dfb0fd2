// What a network reads beside its input: the parameters and running statistics of its layers.

#pragma once

#include <cstdint>

namespace secateur {

struct Slot {
  const char* name;  // the layer's own: "values", "bias", …
  int64_t length;    // in numbers
  bool needed;       // whether there must be a tensor
};

}  // namespace secateur
