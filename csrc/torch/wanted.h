// The argument of backward operators that says which gradients are wanted, and in which dtype.
#pragma once

#include "tensor_utils.h"

namespace cnv2 {

// Two bits for each gradient, from the lowest, in the order of the enumeration: 0 not wanted, 1 in float32, 2 in the
// activations' dtype.
template <class Of>
class Wanted {
 public:
  Wanted(int64_t code, ScalarType narrow) : code_(code), narrow_(narrow) {}
  bool operator()(Of which) const { return bits(which) != 0; }
  ScalarType type(Of which) const { return bits(which) == 2 ? narrow_ : ScalarType::Float; }

 private:
  int64_t bits(Of which) const { return code_ >> 2 * static_cast<int>(which) & 3; }
  int64_t code_;
  ScalarType narrow_;
};

}  // namespace cnv2
