#include <immintrin.h>

#include "kernel.h"

namespace cnv2 {
namespace {

class Avx2Sums {
 public:
  CNV2_INLINE void add(const unsigned char* group, const uint32_t* keys) {
    const __m256i words = load(group);
    products_ = _mm256_add_epi64(products_, product(words, load(keys)));
    shifted_products_ = _mm256_add_epi64(shifted_products_, product(words, load(keys + kGroupKeys)));
    plain_ = _mm256_add_epi64(plain_, words);
  }
  CNV2_INLINE Digest digest() const { return {total(products_), total(shifted_products_), total(plain_)}; }

 private:
  static CNV2_INLINE __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static CNV2_INLINE __m256i product(__m256i words, __m256i keys) {
    const __m256i pairs = _mm256_add_epi32(words, keys);
    return _mm256_mul_epu32(pairs, _mm256_srli_epi64(pairs, 32));
  }
  static CNV2_INLINE uint64_t total(__m256i v) {
    uint64_t lanes[4];
    std::memcpy(lanes, &v, sizeof(lanes));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }

  __m256i products_ = _mm256_setzero_si256(), shifted_products_ = products_, plain_ = products_;
};

}  // namespace

extern const DigestCpu kDigestAvx2 = {digest_of<Avx2Sums>};

}  // namespace cnv2
