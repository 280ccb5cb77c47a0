// Philox 4x32-10 (Salmon et al., SC 2011) on the counters (unit, row pair, step, stream), a vector of units at a time,
// and the normal numbers made of its words. The same words in the same roles as in noise/draws.py.
#pragma once
#include "lanes.h"

enum : uint32_t { MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u };

struct Keys {  // one pair of keys for each of the ten rounds
  uint32_t first[10], second[10];
  explicit Keys(uint64_t seed) {
    for (int i = 0; i < 10; i++) {
      first[i] = (uint32_t)seed + i * 0x9E3779B9u;
      second[i] = (uint32_t)(seed >> 32) + i * 0xBB67AE85u;
    }
  }
};

// What the first two rounds make of the unit alone: the other three parts of the counter are the same for all lanes. Each
// is there twice: for the even lanes, in the lower halves of pairs, and for the odd ones.
struct UnitTable {
  alignas(64) uint32_t high[2][LANES], low[2][LANES], word[2][LANES];
  UnitTable(const Keys& keys, uint32_t first_unit, uint32_t stream) {
    for (int i = 0; i < LANES; i++) {
      const uint64_t product = (uint64_t)MULTIPLIER_0 * (first_unit + i);
      const uint64_t next = (uint64_t)MULTIPLIER_1 * ((uint32_t)(product >> 32) ^ stream ^ keys.second[0]);
      high[0][i] = (uint32_t)(next >> 32), low[0][i] = (uint32_t)next, word[0][i] = (uint32_t)product;
    }
    for (int i = 0; i < LANES; i++) {
      const int odd = i + 1 < LANES ? i + 1 : i;
      high[1][i] = high[0][odd], low[1][i] = low[0][odd], word[1][i] = word[0][odd];
    }
  }
};

// What they make of the pair of rows and the step.
struct RowCounter {
  uint32_t first, second, third;
  RowCounter() = default;
  RowCounter(const Keys& keys, uint32_t pair, uint32_t step) {
    const uint64_t product = (uint64_t)MULTIPLIER_1 * step;
    const uint64_t next = (uint64_t)MULTIPLIER_0 * ((uint32_t)(product >> 32) ^ pair ^ keys.first[0]);
    first = (uint32_t)product ^ keys.first[1], second = (uint32_t)(next >> 32) ^ keys.second[1], third = (uint32_t)next;
  }
};

INLINE vwide product_of_low_words(vwide a, uint32_t m) {  // the upper half of each lane of a does not matter
#if defined(__AVX512F__)
  return (vwide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__) && defined(__FMA__)
  return (vwide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
  return (vwide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
  return (a & 0xffffffffull) * (uint64_t)m;
#endif
}
INLINE vwide spread(uint32_t c) { return (vwide)((vword){} + c); }  // the upper halves do not matter
INLINE vwide xor3(vwide a, vwide b, vwide c) {
#if defined(__AVX512F__)
  return (vwide)_mm512_ternarylogic_epi32((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
  return a ^ b ^ c;
#endif
}
INLINE vwide upper_half(vwide a) {  // where the lower one is wanted; what the upper half holds then does not matter
#if defined(__AVX512F__)
  return (vwide)_mm512_movehdup_ps((__m512)a);  // not on the port of the products, as a shift is
#else
  return a >> 32;
#endif
}
INLINE vword interleave(vwide even, vwide odd) {
#if defined(__AVX512F__)
  return (vword)_mm512_mask_shuffle_epi32((__m512i)even, 0xAAAA, (__m512i)odd, (_MM_PERM_ENUM)0xA0);
#else
  const vwide mask = (vwide){} + 0xffffffffull;
  return (vword)((even & mask) | (odd << 32));
#endif
}
INLINE vwide load_wide(const uint32_t* p) {
  vwide v;
  memcpy(&v, p, sizeof v);
  return v;
}

// The counters of the even (half 0) or odd (half 1) lanes after two rounds, and one more round of them.
INLINE void philox_begin(const UnitTable& unit, const RowCounter& row, int half, vwide c[4]) {
  c[0] = load_wide(unit.high[half]) ^ spread(row.first);
  c[1] = load_wide(unit.low[half]);
  c[2] = load_wide(unit.word[half]) ^ spread(row.second);
  c[3] = spread(row.third);
}
INLINE void philox_round(const Keys& keys, int round, vwide c[4]) {
  const vwide p0 = product_of_low_words(c[0], MULTIPLIER_0), p1 = product_of_low_words(c[2], MULTIPLIER_1);
  c[0] = xor3(upper_half(p1), c[1], spread(keys.first[round]));
  c[2] = xor3(upper_half(p0), c[3], spread(keys.second[round]));
  c[1] = p1;
  c[3] = p0;
}

// The four words of N pairs of rows at one step, for one vector of units: side by side so that the processor always has
// something to do.
template <int N>
INLINE void words_of_pairs(const Keys& keys, const UnitTable& unit, const RowCounter* rows, vword words[4][N]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    vwide counters[N][4];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) philox_begin(unit, rows[i], half, counters[i]);
#pragma GCC unroll 8
    for (int round = 2; round < 10; round++)
#pragma GCC unroll 4
      for (int i = 0; i < N; i++) philox_round(keys, round, counters[i]);
#pragma GCC unroll 4
    for (int i = 0; i < N; i++)
#pragma GCC unroll 4
      for (int w = 0; w < 4; w++) words[w][i] = half ? interleave((vwide)words[w][i], counters[i][w]) : (vword)counters[i][w];
  }
}

INLINE vfloat uniform_of(vword w) { return __builtin_convertvector((vint)(w >> 8), vfloat) * 0x1p-24f; }

// Box-Muller with the upper 24 bits of two words: cosine to one row, sine to its neighbour.
INLINE void normals_of(vword w0, vword w1, vfloat& cosine, vfloat& sine) {
  const vfloat u = __builtin_convertvector((vint)(w0 >> 8), vfloat) * 0x1p-24f + 0x1p-25f;
  const vfloat radius = square_root(minus_two_log(u));
  const vfloat turn = __builtin_convertvector((vint)w1 >> 8, vfloat) * 0x1p-24f;  // in [-1/2, 1/2)
  const vword sign = (vword)turn & 0x80000000u;
  const vfloat size = (vfloat)((vword)turn ^ sign), rest = 0.5f - size;
  cosine = radius * sine_of_turns(0.25f - size);
  sine = radius * sine_of_turns((vfloat)((vword)(size < rest ? size : rest) | sign));
}
