#include "kernel.h"

namespace cnv2 {
namespace {

class ScalarSums {
 public:
  CNV2_INLINE void add(const unsigned char* group, const uint32_t* keys) {
    for (int i = 0; i < kGroupKeys; i += 2) {
      uint64_t word;
      std::memcpy(&word, group + 4 * i, sizeof(word));
      sums_.products += product(word, keys + i);
      sums_.shifted_products += product(word, keys + kGroupKeys + i);
      sums_.plain += word;
    }
  }
  CNV2_INLINE Digest digest() const { return sums_; }

 private:
  static CNV2_INLINE uint64_t product(uint64_t word, const uint32_t* keys) {
    const uint32_t low = static_cast<uint32_t>(word) + keys[0], high = static_cast<uint32_t>(word >> 32) + keys[1];
    return static_cast<uint64_t>(low) * high;
  }

  Digest sums_{0, 0, 0};
};

}  // namespace

extern const DigestCpu kDigestScalar = {digest_of<ScalarSums>};

}  // namespace cnv2
