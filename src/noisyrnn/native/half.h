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
#include <vector>

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
constexpr Long HALVES = 2 * SQUARE;
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
    FOR(3, _tile_loadd(5, b + 3 * right.vector, 64); _tile_dpbf16ps(3, 4, 5))
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

template <int TERMS>
class HalfSums {
 public:
  static Long padded(Long n) { return to_squares(n); }
  HalfSums(const Call& c, Long n)
      : c(c), n(n), x_blocks(input_blocks(c)), source(padded(n) * blocks_of(c.units) * BLOCK_ENTRIES * TERMS),
        state(source * c.shape().sources), inputs(padded(n) * x_blocks * BLOCK_ENTRIES) {}

  void begin(const float* const parts[2], const Long rows[2], const float* now) {
    x = now;
    not_finite.clear();
    for (Long p = 0; p < c.shape().sources; p++)
      round_rows<TERMS>(n, c.units, parts[p], rows[p], state.data() + p * source);
    if constexpr (TERMS == 1) return round_rows<1>(n, c.inputs, x, c.x_row, inputs.data());
    for (Long r = 0; r < n; r++) {
      uint16_t* row = &inputs[r * x_blocks * BLOCK_ENTRIES];
      if (unfold(c.inputs, x + r * c.x_row, LEFT, row)) continue;
      memset(row, 0, x_blocks * BLOCK_ENTRIES * sizeof *row);
      not_finite.push_back(r);
    }
  }

  // The tiles' unit takes its time to wake after other work: of one term the sums of all vectors are made at once.
  Long together(Long from) const { return TERMS == 1 ? c.tiles() - from : side_by_side(c, from); }
  void add(Long from, Long count, const float* packed, float* sums, Long apart) const {
    for (Long j = 0, side; j < count; j += side) {
      side = side_by_side(c, from + j);
      add_panel(side, packed + (from + j) * panel_size(c), sums + j * apart, apart);
    }
  }

 private:
  void add_panel(Long side, const float* panel, float* sums, Long apart) const {
    const Shape& s = c.shape();
    const Long G = s.groups, W = s.weights, U = s.first_input, V = side * W, INPUTS = side * (G - U);
    const Long blocks = blocks_of(c.units), row = G * LANES, vector = G == 1 ? apart : LANES;
    const float* of_inputs = panel + state_panel(c) * side;
    for (Long r = 0; r < n; r += SIDE) {
      const Left h = {state.data() + place_on_left<TERMS>(r, 0, blocks), BLOCK_ENTRIES, TERMS * HALVES};
      const Right weights = {panel, V * TERMS * SQUARE, V * SQUARE, SQUARE};
      const Right second = {panel + blocks * V * TERMS * SQUARE, weights.block, weights.term, SQUARE};
      const Long wide = x_blocks * BLOCK_ENTRIES;
      const Left of_row = TERMS == 1 ? Left{inputs.data() + place_on_left<1>(r, 0, x_blocks), BLOCK_ENTRIES, HALVES}
                                     : Left{inputs.data() + r * wide, wide, BLOCK_ENTRIES};
      const Product of_state = {blocks, h, weights};
      const Right weights_of_x = {of_inputs - side * U * SQUARE, INPUTS * SQUARE, 0, SQUARE};
      const Product of_x = {x_blocks, of_row, weights_of_x, side * U, TERMS != 1};
      const Out out = {sums + r * row, row, vector};
      if (s.sources == 1) multiply_halves<TERMS, false>({of_state, of_x}, V, out);
      else multiply_halves<TERMS, false>({of_state, {blocks, {h.rows + source, h.row, h.block}, second}, of_x}, V, out);
      if (G > W) {
        const Right rest = {of_inputs + (W - U) * SQUARE, INPUTS * SQUARE, 0, SQUARE};
        multiply_halves<TERMS, false>({{x_blocks, of_row, rest, 0, TERMS != 1}}, 1, {out.at + W * LANES, row, LANES});
      }
    }
    for (Long r : not_finite)
      for (Long v = side * U; v < side * G; v++)
        add_inputs(r, of_inputs + (v - side * U) * SQUARE, INPUTS * SQUARE, sums + r * row + v * vector);
  }

  // The part of one row's inputs in a vector of sums, in float: terms of what is not finite would add up to NaN alone.
  void add_inputs(Long r, const float* squares, Long block, float* out) const {
    vfloat sum = load(out);
    for (Long i = 0; i < c.inputs; i++) {
      vfloat weight = {};
      for (Long s = 2; s >= 0; s--) {  // the first three of RIGHT are the terms
        const Long k = s * c.inputs + i;
        const vword pair = (vword)load(squares + k / BLOCK_ENTRIES * block + k % BLOCK_ENTRIES / 2 * LANES);
        weight += (vfloat)(k % 2 ? pair & 0xffff0000u : pair << 16);
      }
      sum += splat(x[r * c.x_row + i]) * weight;
    }
    store(out, sum);
  }

  const Call& c;
  const Long n, x_blocks, source;  // source: halves of one source of the state
  Vector<uint16_t> state, inputs;
  const float* x = nullptr;
  std::vector<Long> not_finite;  // rows whose inputs are not
  const Tiles tiles;
};

// Squares (vector of state entries, blocks of the units' vectors of weights, terms), and the same for U's columns.
template <int TERMS>
static void half_transposed(const Call& c, Long replica, Vector<float>& weights, Vector<float>& inputs) {
  const Long H = c.units, TILES = c.tiles(), W = c.shape().weights, ENTRIES = c.entries(), groups = c.input_groups();
  const Long blocks = blocks_of(TILES * W * LANES), input_blocks = blocks_of(TILES * groups * LANES);
  const float* d = c.step + replica * c.step_replica;
  // The matrix `from` (H, size), of which row j has the place (j / LANES * of + g) * LANES + j % LANES in the squares.
  const auto scatter = [&](const float* from, Long row, Long size, Long g, Long of, Long blocks, float* to) {
    for (Long j = 0; j < H; j += 2) {
      const Long pair = ((j / LANES * of + g) * LANES + j % LANES) / 2;
      for (Long i = 0; i < size; i += LANES) {
        const float* at = from + j * row + i;
        __m512i halves[TERMS];
        halves_of<TERMS>(load_some(at, size - i) * d[j], j + 1 < H ? load_some(at + row, size - i) * d[j + 1] : (vfloat){},
                         halves);
        float* vector = to + i / LANES * blocks * TERMS * SQUARE;
        for (int p = 0; p < TERMS; p++) store(vector + place_of_pair<TERMS>(pair, p), pairs_of(halves[p]));
      }
    }
  };
  weights = Memory::zeros(TILES * c.shape().sources * TERMS * blocks * SQUARE);
  for (Long g = 0; g < W; g++)
    for (Long source = 0; source < c.shape().sources; source++)
      scatter(c.weights_of(replica, g) + source * H, ENTRIES, H, g, W, blocks,
              &weights[source * TILES * TERMS * blocks * SQUARE]);
  if (!c.d_x) return;
  inputs.assign((c.inputs + LANES - 1) / LANES * TERMS * input_blocks * SQUARE, 0.f);
  for (Long g = 0; g < groups; g++)
    scatter(c.inputs_of(replica, c.shape().first_input + g), c.inputs, c.inputs, g, groups, input_blocks, inputs.data());
}

template <int TERMS, int G, int W, int U>
class HalfGradients {
 public:
  static Long padded(Long n) { return to_squares(n); }
  HalfGradients(const Call& c, Long n, Long K, Long tile_stride)
      : c(c), n(n), tile_stride(tile_stride), even(n + n % 2), room(blocks_of((K / n) * even)),
        blocks(blocks_of(c.tiles() * W * LANES)), of_x(blocks_of(c.tiles() * (G - U) * LANES)),
        input_width(to_squares(c.inputs)), rows(padded(n) * blocks * BLOCK_ENTRIES * TERMS),
        input_rows(c.d_x ? padded(n) * of_x * BLOCK_ENTRIES * TERMS : 0), of_vector(room * TERMS * SQUARE + APART),
        pairs(c.d_W ? c.tiles() * G * of_vector : 0),
        state_pairs(TERMS * c.padded_entries() * room * SIDE), input_pairs(TERMS * input_width * room * SIDE),
        squares(TERMS * room * SQUARE) {}

  void begin(const float* sums, Long k) {
    pair = k / n * even / 2;
    for (Long j = 0; j < c.tiles(); j++)
      for (Long r = 0; r < n; r += SIDE) {
        const float* from = sums + j * tile_stride + (k + r) * G * LANES;
        const Long some = n - r < SIDE ? n - r : SIDE;
        if (c.d_W) keep_sums<true>(from, some, j, r);
        else keep_sums<false>(from, some, j, r);
      }
  }

  void add_to_state(const float* weights, float* g, Long g_row) const {
    const Long vectors = c.tiles() * c.shape().sources;
    const Right right = {weights, TERMS * SQUARE, SQUARE, blocks * TERMS * SQUARE};
    for (Long r = 0; r < n; r += SIDE)
      add_halves<TERMS>(n - r < SIDE ? n - r : SIDE, {blocks, on_left(rows, r, blocks), right}, vectors,
                        {g + r * g_row, g_row, LANES});
  }

  void to_inputs(const float* weights, float* d_x, Long d_x_row) const {
    alignas(64) float out[SIDE * LANES];
    for (Long v = 0; v * LANES < c.inputs; v++)
      for (Long r = 0; r < n; r += SIDE) {
        const Right right = {weights + v * of_x * TERMS * SQUARE, TERMS * SQUARE, SQUARE, 0};
        multiply_halves<TERMS, false>({{of_x, on_left(input_rows, r, of_x), right}}, 1, {out, LANES, 0});
        for (Long i = 0; i < SIDE && r + i < n; i++)
          store_some(d_x + (r + i) * d_x_row + v * LANES, load(out + i * LANES), c.inputs - v * LANES);
      }
  }

  void keep(const float* const old[2], const Long old_row[2], const float* x, Long x_row, const Long* lengths, Long t) {
    const Long width = c.padded_entries();
    for (Long p = 0; p < c.shape().sources; p++)
      keep_pairs(old[p], old_row[p], c.units, nullptr, t, state_pairs.data() + pair * width + p * c.width(), width);
    keep_pairs(x, x_row, c.inputs, lengths, t, input_pairs.data() + pair * input_width, input_width);
  }

  void add_to_weights(const float*, Long K, float* weights, float* inputs) {
    const Long used = K / n * even / 2, blocks = (used + SIDE - 1) / SIDE;  // pairs; the entries past them are zero
    add_products<W>(state_pairs.data(), c.padded_entries(), used, blocks, 0, weights);
    add_products<G - U>(input_pairs.data(), input_width, used, blocks, U, inputs);
  }

 private:
  const Call& c;
  const Long n, tile_stride, even, room, blocks, of_x, input_width;  // room: blocks of pairs of rows; blocks: of sums
  Long pair = 0;  // the first pair of this step's rows in the block of steps
  Vector<uint16_t> rows, input_rows;
  const Long of_vector;  // words of the pairs of a vector of sums
  Vector<float> pairs, state_pairs, input_pairs, squares;
  const Tiles tiles;

  // One vector of units' sums of up to 16 rows, from row r on, as what the products read.
  template <bool PAIRS>
  INLINE_MEMBER void keep_sums(const float* from, Long some, Long j, Long r) {
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) {
      uint16_t* of_state = rows.data() + place_on_left<TERMS>(r, (j * W + g) * LANES, blocks);
      uint16_t* of_inputs = g >= U && c.d_x ? input_rows.data() + place_on_left<TERMS>(r, (j * (G - U) + g - U) * LANES, of_x) : nullptr;
      float* of_weights = pairs.data() + (j * G + g) * of_vector;
      for (Long i = 0; i < some; i += 2, of_state += 2 * BLOCK_ENTRIES) {
        const float* at = from + (i * G + g) * LANES;
        const Long place = place_of_pair<TERMS>(pair + (r + i) / 2, 0);
        __m512i halves[TERMS];
        halves_of<TERMS>(load(at), i + 1 < some ? load(at + G * LANES) : (vfloat){}, halves);
#pragma GCC unroll 3
        for (int p = 0; p < TERMS; p++) {
          if (g < W) store_rows(halves[p], of_state + p * HALVES);
          if (of_inputs) store_rows(halves[p], of_inputs + i * BLOCK_ENTRIES + p * HALVES);
          if (PAIRS) store(of_weights + place + p * SQUARE, pairs_of(halves[p]));
        }
      }
    }
  }

  // Two rows of halves; padding has room for a second row that is none.
  static void store_rows(__m512i halves, uint16_t* to) {
    _mm256_storeu_si256((__m256i*)to, _mm512_castsi512_si256(halves));
    _mm256_storeu_si256((__m256i*)(to + BLOCK_ENTRIES), _mm512_extracti64x4_epi64(halves, 1));
  }
  static Left on_left(const Vector<uint16_t>& rows, Long r, Long blocks) {
    return {rows.data() + place_on_left<TERMS>(r, 0, blocks), BLOCK_ENTRIES, TERMS * HALVES};
  }

  // Pairs of n rows, a vector of entries after another.
  void keep_pairs(const float* from, Long stride, Long size, const Long* lengths, Long t, float* to, Long to_row) const {
    const auto at = [&](Long r, Long i) {
      return r >= n || (lengths && lengths[r] <= t) ? (vfloat){} : load_some(from + r * stride + i, size - i);
    };
    for (Long r = 0; r < n; r += 2, to += to_row)
      for (Long i = 0; i < size; i += LANES) {
        __m512i halves[TERMS];
        halves_of<TERMS>(at(r, i), at(r + 1, i), halves);
        for (int p = 0; p < TERMS; p++) store(to + p * room * SIDE * to_row + i, pairs_of(halves[p]));
      }
  }

  // totals (vector of units, width entries, V vectors) += entriesᵀ times gradients, whose first vector is number `first`.
  template <int V>
  void add_products(float* entries, Long width, Long used, Long blocks, Long first, float* totals) {
    const Long apart = room * SIDE * width;
    for (int p = 0; p < TERMS; p++) memset(entries + p * apart + used * width, 0, (blocks * SIDE - used) * width * sizeof(float));
    const Left left = {(const uint16_t*)squares.data(), BLOCK_ENTRIES, TERMS * HALVES};
    for (Long i = 0; i < width; i += SIDE) {
      for (int p = 0; p < TERMS; p++)
        for (Long k = 0; k < blocks; k++)
          transpose_square(entries + p * apart + k * SIDE * width + i, width, squares.data() + (k * TERMS + p) * SQUARE, SIDE);
      for (Long j = 0; j < c.tiles(); j++) {
        const Right right = {pairs.data() + (j * G + first) * of_vector, TERMS * SQUARE, SQUARE, of_vector};
        add_halves<TERMS>(SIDE, {blocks, left, right}, V, {totals + (j * width + i) * V * LANES, V * LANES, LANES});
      }
    }
  }
};
template <int G, int W, int U>
using RoundedGradients = HalfGradients<1, G, W, U>;
#if defined(__AMX_BF16__)
template <int G, int W, int U>
using SplitGradients = HalfGradients<3, G, W, U>;
#endif
#endif
