// Products of bf16 numbers, summed in float: by AMX tiles, or by AVX-512's dot product of pairs.
//
// A number is taken as TERMS numbers of bf16: one, rounded; or three, whose sum is the float. Of the nine products of two
// such sums the six largest are made: what is left out is as small as the rounding of a float product. Tiles make six
// products in less than half the time of a float one.
//
// All operands lie in squares of 16 by 16 pairs, the size of a tile: for rows on the left, 16 rows of 32 neighbours; for
// weights on the right, 16 pairs of rows by 16 columns. A square's lines follow one another, since those of a tile with
// gaps between them meet in the same few lines of the first cache. What reaches past an operand's end is zero.
#pragma once
#include "call.h"
#include "memory.h"
#include "transpose.h"

#if defined(__AMX_BF16__)
constexpr int MOST_TERMS = 3;  // bf16 numbers that may stand for a float
#elif defined(__AVX512BF16__)
constexpr int MOST_TERMS = 1;
#else
constexpr int MOST_TERMS = 0;
#endif

constexpr Long SIDE = 16;  // rows, and pairs, of a square
constexpr Long HALVES = 2 * SQUARE;  // of a square
INLINE Long to_squares(Long n) { return (n + SIDE - 1) / SIDE * SIDE; }

#if defined(__AVX512BF16__)
// x as the sum of three numbers of bf16, each in the upper half of its word. They add up to NaN for what is not finite.
INLINE void split(vfloat x, vword terms[3]) {
  const vfloat high = (vfloat)((vword)x & 0xffff0000u), rest = x - high;
  const vfloat middle = (vfloat)(((vword)rest + 0x8000u) & 0xffff0000u);
  terms[0] = (vword)high, terms[1] = (vword)middle, terms[2] = (vword)(rest - middle);
}

// The terms of the floats in two vectors, one vector after the other.
template <int TERMS>
INLINE void halves_of(vfloat low, vfloat high, __m512i halves[TERMS]) {
  if constexpr (TERMS == 1) {
    halves[0] = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  } else {
    alignas(64) static const uint16_t upper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                   33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    vword of_low[3], of_high[3];
    split(low, of_low), split(high, of_high);
#pragma GCC unroll 3
    for (int p = 0; p < 3; p++)
      halves[p] = _mm512_permutex2var_epi16((__m512i)of_low[p], _mm512_load_si512(upper), (__m512i)of_high[p]);
  }
}
// The pairs of neighbours in two vectors' halves: entry i holds (first[i], second[i]).
INLINE vfloat pairs_of(__m512i halves) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vfloat)_mm512_permutexvar_epi16(_mm512_load_si512(order), halves);
}

// Where pair number k of a term lies in squares (blocks, terms).
template <int TERMS>
INLINE Long place_of_pair(Long k, Long term) { return (k / SIDE * TERMS + term) * SQUARE + k % SIDE * LANES; }

// Where entry k of row r lies on the left: squares (groups of rows, blocks, terms).
template <int TERMS>
INLINE Long place_on_left(Long r, Long k, Long blocks) {
  return (r / SIDE * blocks + k / BLOCK_ENTRIES) * TERMS * HALVES + r % SIDE * BLOCK_ENTRIES + k % BLOCK_ENTRIES;
}

// n rows of `size` floats to the left of a product.
template <int TERMS>
static inline void round_rows(Long n, Long size, const float* from, Long from_row, uint16_t* to) {
  for (Long r = 0; r < n; r++)
    for (Long k = 0; k < size; k += BLOCK_ENTRIES) {
      const float* at = from + r * from_row + k;
      const vfloat high = size - k > LANES ? load_some(at + LANES, size - k - LANES) : (vfloat){};
      __m512i halves[TERMS];
      halves_of<TERMS>(load_some(at, size - k), high, halves);
      uint16_t* place = to + place_on_left<TERMS>(r, k, blocks_of(size));
      for (int p = 0; p < TERMS; p++) _mm512_storeu_si512(place + p * HALVES, halves[p]);
    }
}

// The terms of either side of a product of few entries: the six products are made as one, of six times the entries.
constexpr int LEFT[SIX] = {0, 0, 0, 1, 1, 2}, RIGHT[SIX] = {0, 1, 2, 0, 1, 0};

// `size` floats to the terms that `order` names, `size` of each after another; whether all of them are finite.
static inline bool unfold(Long size, const float* from, const int order[SIX], uint16_t* to) {
  constexpr int NAN_OR_INFINITE = 0x99;
  __mmask16 others = 0;
  for (Long k = 0; k < size; k += LANES) {
    const Long some = size - k < LANES ? size - k : LANES;
    const vfloat x = load_some(from + k, some);
    vword terms[3];
    split(x, terms);
    others |= _mm512_fpclass_ps_mask((__m512)x, NAN_OR_INFINITE);
    for (int s = 0; s < SIX; s++) {
      const __m256i halves = _mm512_cvtepi32_epi16((__m512i)(terms[order[s]] >> 16));
      _mm256_mask_storeu_epi16(to + s * size + k, (__mmask16)((1u << some) - 1), halves);
    }
  }
  return !others;
}

#if defined(__AMX_BF16__)
// This thread's tiles, all of full size, while one of these lives.
class Tiles {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };

 public:
  Tiles() {
    const Configuration all;
    _tile_loadconfig(&all);
  }
  ~Tiles() { _tile_release(); }
};
#else
struct Tiles {
  Tiles() {}
};
#endif

// A product of rows on the left and weights on the right, of which the vectors from number `first` on take part. Distances
// on the left, between rows and between blocks of entries, are in halves; those on the right, between blocks, terms and
// vectors of columns, in words. `unfolded`: the terms are further entries.
struct Left {
  const uint16_t* rows;
  Long row, block;
};
struct Right {
  const float* squares;
  Long block, term, vector;
};
struct Product {
  Long blocks;
  Left left;
  Right right;
  Long first = 0;
  bool unfolded = false;
};
struct Out {
  float* at;
  Long row, vector;
};

#if defined(__AMX_BF16__)
#define FOR(T, ...) \
  if constexpr (V > T) { __VA_ARGS__; }

// The sums in tiles 0 to V - 1 += one product of one term.
template <int V>
INLINE void add_to_tiles(const Product& p) {
  const Right right = p.right;
  for (Long k = 0; k < p.blocks; k++) {
    const float* b = right.squares + k * right.block;
    _tile_loadd(4, p.left.rows + k * p.left.block, p.left.row * 2);
    FOR(0, if (p.first <= 0) { _tile_loadd(5, b, 64); _tile_dpbf16ps(0, 4, 5); })
    FOR(1, if (p.first <= 1) { _tile_loadd(6, b + right.vector, 64); _tile_dpbf16ps(1, 4, 6); })
    FOR(2, if (p.first <= 2) { _tile_loadd(7, b + 2 * right.vector, 64); _tile_dpbf16ps(2, 4, 7); })
    FOR(3, if (p.first <= 3) { _tile_loadd(5, b + 3 * right.vector, 64); _tile_dpbf16ps(3, 4, 5); })
  }
}

// The same of three terms. Each tile is loaded just before its first use: the products wait less for the second cache.
template <int V>
INLINE void add_three_to_tiles(const Product& p) {
  const Left left = p.left;
  const Right right = p.right;
  for (Long k = 0; k < p.blocks; k++) {
    const uint16_t* a = left.rows + k * left.block;
    const float *high = right.squares + k * right.block, *middle = high + right.term, *low = middle + right.term;
    _tile_loadd(2, a, left.row * 2);
    _tile_loadd(6, high, 64);
    _tile_dpbf16ps(0, 2, 6);
    FOR(1, _tile_loadd(7, high + right.vector, 64); _tile_dpbf16ps(1, 2, 7))
    _tile_loadd(3, a + HALVES, left.row * 2);
    _tile_dpbf16ps(0, 3, 6);
    FOR(1, _tile_dpbf16ps(1, 3, 7))
    _tile_loadd(4, a + 2 * HALVES, left.row * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, middle, 64);
    FOR(1, _tile_dpbf16ps(1, 4, 7); _tile_loadd(6, middle + right.vector, 64))
    _tile_dpbf16ps(0, 2, 5);
    FOR(1, _tile_dpbf16ps(1, 2, 6))
    _tile_loadd(7, low, 64);
    _tile_dpbf16ps(0, 3, 5);
    FOR(1, _tile_dpbf16ps(1, 3, 6); _tile_loadd(5, low + right.vector, 64))
    _tile_dpbf16ps(0, 2, 7);
    FOR(1, _tile_dpbf16ps(1, 2, 5))
  }
}

// out (16 rows, V vectors) += or = the sum of `count` products.
template <int TERMS, int V, bool ADD>
static inline void multiply_tiles(const Product* products, int count, Out out) {
#define BEGIN(T)                                               \
  FOR(T, if (ADD) _tile_loadd(T, out.at + T * out.vector, out.row * 4); \
      else _tile_zero(T))
  BEGIN(0) BEGIN(1) BEGIN(2) BEGIN(3)
#undef BEGIN
  for (int i = 0; i < count; i++) {
    if constexpr (TERMS == 3) {
      if (!products[i].unfolded) {
        add_three_to_tiles<V>(products[i]);
        continue;
      }
    }
    add_to_tiles<V>(products[i]);
  }
#define END(T) FOR(T, _tile_stored(T, out.at + T * out.vector, out.row * 4))
  END(0) END(1) END(2) END(3)
#undef END
}
#undef FOR
#else
template <int TERMS, int V, bool ADD>
static inline void multiply_tiles(const Product* products, int count, Out out) {
  static_assert(TERMS == 1, "without tiles float products are faster");
  constexpr int R = V <= 2 ? 8 : 4;
  for (Long r0 = 0; r0 < SIDE; r0 += R) {
    __m512 sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++)
        sum[r][v] = ADD ? _mm512_loadu_ps(out.at + (r0 + r) * out.row + v * out.vector) : _mm512_setzero_ps();
    for (int i = 0; i < count; i++) {
      const Product& p = products[i];
      for (Long k = 0; k < p.blocks; k++)
        for (Long pair = 0; pair < SIDE; pair++) {
          __m512bh w[V];
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) {
            const float* at = p.right.squares + k * p.right.block + v * p.right.vector + pair * LANES;
            w[v] = (__m512bh)(v < p.first ? _mm512_setzero_si512() : _mm512_loadu_si512(at));
          }
#pragma GCC unroll 8
          for (int r = 0; r < R; r++) {
            int halves;
            memcpy(&halves, p.left.rows + (r0 + r) * p.left.row + k * p.left.block + 2 * pair, 4);
            const __m512bh a = (__m512bh)_mm512_set1_epi32(halves);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], a, w[v]);
          }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) _mm512_storeu_ps(out.at + (r0 + r) * out.row + v * out.vector, sum[r][v]);
  }
}
#endif

// The same for any number of vectors.
template <int TERMS, bool ADD, size_t COUNT>
static inline void multiply_halves(Product(&&products)[COUNT], Long vectors, Out out) {
  constexpr int MOST = TERMS == 1 ? 4 : 2;
  for (; vectors > 0; vectors -= MOST, out.at += MOST * out.vector) {
    if (vectors >= MOST) multiply_tiles<TERMS, MOST, ADD>(products, COUNT, out);
    else if (vectors == 1) multiply_tiles<TERMS, 1, ADD>(products, COUNT, out);
    else if constexpr (MOST > 2) {
      if (vectors == 2) multiply_tiles<TERMS, 2, ADD>(products, COUNT, out);
      else multiply_tiles<TERMS, 3, ADD>(products, COUNT, out);
    }
    for (Product& p : products) p.right.squares += MOST * p.right.vector, p.first -= MOST;
  }
}

// One product, added to n rows. Of three terms the sum is made apart: each addition to `out` would round at its size.
template <int TERMS>
static inline void add_halves(Long n, const Product& product, Long vectors, Out out) {
  if constexpr (TERMS == 1) return multiply_halves<TERMS, true>({product}, vectors, out);
  alignas(64) float sums[SIDE * 2 * LANES];
  for (Long v = 0; v < vectors; v += 2) {
    const Long some = vectors - v < 2 ? 1 : 2;
    Product part = product;
    part.right.squares += v * part.right.vector;
    multiply_halves<TERMS, false>({part}, some, {sums, LANES, SIDE * LANES});
    for (Long r = 0; r < n; r++)
      for (Long i = 0; i < some; i++) {
        float* at = out.at + r * out.row + (v + i) * out.vector;
        store(at, load(at) + load(sums + (i * SIDE + r) * LANES));
      }
  }
}

// `some` rows of `size` entries as squares, a column each.
template <int TERMS>
static void pack_halves(const float* rows, Long row, Long some, Long size, bool unfolded, float* squares, Long block,
                        Long term) {
  const Long wide = unfolded ? SIX * size : size, blocks = blocks_of(wide), width = blocks * BLOCK_ENTRIES;
  Vector<uint16_t> halves((unfolded ? 1 : TERMS) * SIDE * width);
  for (Long r = 0; unfolded && r < some; r++) unfold(size, rows + r * row, RIGHT, &halves[r * width]);
  if (!unfolded) round_rows<TERMS>(some, size, rows, row, halves.data());
  for (Long k = 0; k < blocks; k++)
    for (int p = 0; p < (unfolded ? 1 : TERMS); p++) {
      const uint16_t* from = halves.data() + (unfolded ? k * BLOCK_ENTRIES : (k * TERMS + p) * HALVES);
      transpose_square((const float*)from, (unfolded ? width : BLOCK_ENTRIES) / 2, squares + k * block + p * term, LANES);
    }
}
#endif
