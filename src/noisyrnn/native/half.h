// Products of numbers rounded to bf16, summed in float: by AMX tiles, or by AVX-512's dot product of pairs.
//
// All operands lie in squares of 16 by 16 pairs, the size of a tile: for rows on the left, 16 rows of 32 neighbours; for
// weights on the right, 16 pairs of rows by 16 columns. What reaches past an operand's end is zero.
#pragma once
#include <vector>

#include "call.h"
#include "memory.h"
#include "transpose.h"

#if defined(__AVX512BF16__)
constexpr bool HALF = true;
#else
constexpr bool HALF = false;
#endif

constexpr Long SIDE = 16;  // rows, and pairs, of a square
INLINE Long to_squares(Long n) { return (n + SIDE - 1) / SIDE * SIDE; }

#if defined(__AVX512BF16__)
INLINE uint16_t half_of(float x) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
INLINE __m512i halves_of(vfloat low, vfloat high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

// The pairs of neighbours in two rows' vectors: entry i holds (even[i], odd[i]).
INLINE vfloat pairs_of(vfloat even, vfloat odd) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vfloat)_mm512_permutexvar_epi16(_mm512_load_si512(order), halves_of(even, odd));
}

// n rows of `size` floats to rows of `blocks_of(size)` squares' width.
static inline void round_rows(Long n, Long size, const float* from, Long from_row, uint16_t* to, Long to_row) {
  for (Long r = 0; r < n; r++)
    for (Long k = 0; k < size; k += BLOCK_ENTRIES) {
      const float* at = from + r * from_row + k;
      const vfloat high = size - k > LANES ? load_some(at + LANES, size - k - LANES) : (vfloat){};
      _mm512_storeu_si512(to + r * to_row + k, halves_of(load_some(at, size - k), high));
    }
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

// out (16 rows, V vectors) += or = rows (16) times squares (blocks, V). Distances: `row` between rows of the left side in
// halves, `block` and `vector` between squares in words, `out_row` and `out_vector` in floats.
template <int V, bool ADD>
static inline void multiply_halves(Long blocks, const uint16_t* rows, Long row, const float* squares, Long block,
                                   Long vector, float* out, Long out_row, Long out_vector) {
#if defined(__AMX_BF16__)
#define BEGIN(T)                                             \
  if constexpr (V > T) {                                     \
    if (ADD) _tile_loadd(T, out + T * out_vector, out_row * 4); \
    else _tile_zero(T);                                      \
  }
#define STEP(T, B)                                                  \
  if constexpr (V > T) {                                            \
    _tile_loadd(B, squares + k * block + T * vector, 64);            \
    _tile_dpbf16ps(T, 4, B);                                        \
  }
#define END(T) \
  if constexpr (V > T) _tile_stored(T, out + T * out_vector, out_row * 4);
  BEGIN(0) BEGIN(1) BEGIN(2) BEGIN(3)
  for (Long k = 0; k < blocks; k++) {
    _tile_loadd(4, rows + k * BLOCK_ENTRIES, row * 2);
    STEP(0, 5) STEP(1, 6) STEP(2, 7) STEP(3, 5)
  }
  END(0) END(1) END(2) END(3)
#undef BEGIN
#undef STEP
#undef END
#else
  constexpr int R = V <= 2 ? 8 : 4;
  for (Long r0 = 0; r0 < SIDE; r0 += R) {
    __m512 sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++)
        sum[r][v] = ADD ? _mm512_loadu_ps(out + (r0 + r) * out_row + v * out_vector) : _mm512_setzero_ps();
    for (Long k = 0; k < blocks; k++)
      for (Long i = 0; i < SIDE; i++) {
        __m512bh w[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
          w[v] = (__m512bh)_mm512_loadu_si512(squares + k * block + v * vector + i * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          int pair;
          memcpy(&pair, rows + (r0 + r) * row + k * BLOCK_ENTRIES + 2 * i, 4);
          const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], a, w[v]);
        }
      }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) _mm512_storeu_ps(out + (r0 + r) * out_row + v * out_vector, sum[r][v]);
  }
#endif
}

// Calls f with V as a constant, for V in [1, 4].
template <class F>
static inline void with_vectors(Long V, const F& f) {
  switch (V) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    default: return f(std::integral_constant<int, 4>());
  }
}

// `some` rows of `size` entries as squares, a column each, `block` words from one block of entries to the next.
static void pack_half(const float* rows, Long row, Long some, Long size, float* squares, Long block) {
  for (Long k = 0; k < size; k += 2)
    for (Long l = 0; l < some; l++) {
      const float* at = rows + l * row + k;
      const uint16_t pair[2] = {half_of(at[0]), k + 1 < size ? half_of(at[1]) : (uint16_t)0};
      memcpy(squares + k / BLOCK_ENTRIES * block + k % BLOCK_ENTRIES / 2 * LANES + l, pair, 4);
    }
}

class HalfSums {
 public:
  static Long padded(Long n) { return to_squares(n); }
  HalfSums(const Call& c, Long n)
      : c(c), n(n), state_row(blocks_of(c.units) * BLOCK_ENTRIES), input_row(blocks_of(c.inputs) * BLOCK_ENTRIES),
        state(padded(n) * state_row * c.shape().sources), inputs(padded(n) * input_row) {}

  void begin(const float* const parts[2], const Long rows[2], const float* x) {
    for (Long p = 0; p < c.shape().sources; p++)
      round_rows(n, c.units, parts[p], rows[p], state.data() + p * padded(n) * state_row, state_row);
    round_rows(n, c.inputs, x, c.x_row, inputs.data(), input_row);
  }

  Long together(Long from) const { return c.tiles() - from; }  // the tiles' unit takes its time to wake after other work
  void add(Long from, Long count, const float* packed, float* sums, Long apart) const {
    for (Long j = 0, side; j < count; j += side) {
      side = side_by_side(c, from + j);
      add_panel(side, packed + (from + j) * panel_size(c), sums + j * apart, apart);
    }
  }

 private:
  void add_panel(Long side, const float* panel, float* sums, Long apart) const {
    const Shape& s = c.shape();
    const Long G = s.groups, W = s.weights, U = s.first_input, out_vector = G == 1 ? apart : LANES;
    const Long blocks = blocks_of(c.units), V = side * W, input_blocks = blocks_of(c.inputs), INPUTS = side * (G - U);
    const float* of_inputs = panel + state_panel(c) * side;
    for (Long r = 0; r < n; r += SIDE) {
      float* out = sums + r * G * LANES;
      with_vectors(V, [&](auto v) {
        constexpr int N = decltype(v)::value;
        const uint16_t* rows = state.data() + r * state_row;
        multiply_halves<N, false>(blocks, rows, state_row, panel, V * SQUARE, SQUARE, out, G * LANES, out_vector);
        if (s.sources == 2)
          multiply_halves<N, true>(blocks, rows + padded(n) * state_row, state_row, panel + blocks * V * SQUARE, V * SQUARE,
                                   SQUARE, out, G * LANES, out_vector);
      });
      const uint16_t* x = inputs.data() + r * input_row;
      with_vectors(V - side * U, [&](auto v) {
        multiply_halves<decltype(v)::value, true>(input_blocks, x, input_row, of_inputs, INPUTS * SQUARE, SQUARE,
                                                  out + U * LANES, G * LANES, out_vector);
      });
      if (G > W)
        multiply_halves<1, false>(input_blocks, x, input_row, of_inputs + (W - U) * SQUARE, INPUTS * SQUARE, SQUARE,
                                  out + W * LANES, G * LANES, LANES);
    }
  }

  const Call& c;
  const Long n, state_row, input_row;
  Vector<uint16_t> state, inputs;
  const Tiles tiles;
};

// Squares (vector of state entries, blocks of the units' vectors of weights), and the same for U's columns.
static void half_transposed(const Call& c, Long replica, Vector<float>& weights, Vector<float>& inputs) {
  const Long H = c.units, TILES = c.tiles(), W = c.shape().weights, ENTRIES = c.entries(), groups = c.input_groups();
  const Long blocks = blocks_of(TILES * W * LANES), input_blocks = blocks_of(TILES * groups * LANES);
  const float* d = c.step + replica * c.step_replica;
  // The matrix `from` (H, size), whose row j goes to entry `place(j)` of the squares' left side.
  const auto scatter = [&](const float* from, Long row, Long size, Long g, Long of, Long blocks, float* to) {
    for (Long j = 0; j < H; j++) {
      const Long place = (j / LANES * of + g) * LANES + j % LANES;
      float* square = to + place / BLOCK_ENTRIES * SQUARE + place % BLOCK_ENTRIES / 2 * LANES;
      for (Long i = 0; i < size; i++) {
        const uint16_t half = half_of(d[j] * from[j * row + i]);
        memcpy((char*)(square + i / LANES * blocks * SQUARE + i % LANES) + place % 2 * 2, &half, 2);
      }
    }
  };
  weights = Memory::zeros(TILES * c.shape().sources * blocks * SQUARE);
  for (Long g = 0; g < W; g++)
    for (Long source = 0; source < c.shape().sources; source++)
      scatter(c.weights_of(replica, g) + source * H, ENTRIES, H, g, W, blocks, &weights[source * TILES * blocks * SQUARE]);
  if (!c.d_x) return;
  inputs.assign((c.inputs + LANES - 1) / LANES * input_blocks * SQUARE, 0.f);
  for (Long g = 0; g < groups; g++)
    scatter(c.inputs_of(replica, c.shape().first_input + g), c.inputs, c.inputs, g, groups, input_blocks, inputs.data());
}

template <int G, int W, int U>
class HalfGradients {
 public:
  static Long padded(Long n) { return to_squares(n); }
  HalfGradients(const Call& c, Long n, Long K, Long tile_stride)
      : c(c), n(n), tile_stride(tile_stride), even(n + n % 2), room(blocks_of((K / n) * even)),
        row(blocks_of(c.tiles() * W * LANES) * BLOCK_ENTRIES), input_row(blocks_of(c.tiles() * (G - U) * LANES) * BLOCK_ENTRIES),
        input_width(to_squares(c.inputs)), rows(padded(n) * row), input_rows(c.d_x ? padded(n) * input_row : 0),
        pairs(c.tiles() * G * room * SQUARE), state_pairs(c.padded_entries() * room * SIDE),
        input_pairs(input_width * room * SIDE), squares(room * SQUARE) {}

  void begin(const float* sums, Long k) {
    const Long first = k / n * even / 2;  // of the step's pairs of rows
    for (Long j = 0; j < c.tiles(); j++) {
      const float* from = sums + j * tile_stride + k * G * LANES;
      for (Long r = 0; r < n; r++) {
        round_vectors<W>(from + r * G * LANES, rows.data() + r * row + j * W * LANES);
        if (c.d_x) round_vectors<G - U>(from + (r * G + U) * LANES, input_rows.data() + r * input_row + j * (G - U) * LANES);
      }
      for (Long r = 0; c.d_W && r < n; r += 2)
        for (Long g = 0; g < G; g++) {
          const vfloat odd = r + 1 < n ? load(from + ((r + 1) * G + g) * LANES) : (vfloat){};
          store(pairs.data() + (j * G + g) * room * SQUARE + (first + r / 2) * LANES,
                pairs_of(load(from + (r * G + g) * LANES), odd));
        }
    }
    pair = first;
  }

  void add_to_state(const float* weights, float* g, Long g_row) const {
    const Long vectors = c.tiles() * c.shape().sources, blocks = row / BLOCK_ENTRIES;
    for (Long p = 0; p < vectors; p += 4)
      with_vectors(vectors - p < 4 ? vectors - p : 4, [&](auto v) {
        for (Long r = 0; r < n; r += SIDE)
          multiply_halves<decltype(v)::value, true>(blocks, rows.data() + r * row, row, weights + p * blocks * SQUARE, SQUARE,
                                                    blocks * SQUARE, g + r * g_row + p * LANES, g_row, LANES);
      });
  }

  void to_inputs(const float* weights, float* d_x, Long d_x_row) const {
    const Long blocks = input_row / BLOCK_ENTRIES;
    alignas(64) float out[SIDE * LANES];
    for (Long v = 0; v * LANES < c.inputs; v++)
      for (Long r = 0; r < n; r += SIDE) {
        multiply_halves<1, false>(blocks, input_rows.data() + r * input_row, input_row, weights + v * blocks * SQUARE, SQUARE,
                                  0, out, LANES, 0);
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
  const Long n, tile_stride, even, room, row, input_row, input_width;  // room: blocks of pairs of rows
  Long pair = 0;  // the first pair of this step's rows in the block of steps
  Vector<uint16_t> rows, input_rows;
  Vector<float> pairs, state_pairs, input_pairs, squares;
  const Tiles tiles;

  template <int V>
  static void round_vectors(const float* from, uint16_t* to) {
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const __m256bh halves = _mm512_cvtneps_pbh((__m512)load(from + v * LANES));
      memcpy(to + v * LANES, &halves, sizeof halves);
    }
  }

  // Pairs of n rows, a vector of entries after another.
  void keep_pairs(const float* from, Long stride, Long size, const Long* lengths, Long t, float* to, Long to_row) const {
    const auto at = [&](Long r, Long i) {
      return r >= n || (lengths && lengths[r] <= t) ? (vfloat){} : load_some(from + r * stride + i, size - i);
    };
    for (Long r = 0; r < n; r += 2, to += to_row)
      for (Long i = 0; i < size; i += LANES) store(to + i, pairs_of(at(r, i), at(r + 1, i)));
  }

  // totals (vector of units, width entries, V vectors) += entriesᵀ times gradients, whose first vector is number `first`.
  template <int V>
  void add_products(float* entries, Long width, Long used, Long blocks, Long first, float* totals) {
    memset(entries + used * width, 0, (blocks * SIDE - used) * width * sizeof(float));
    for (Long i = 0; i < width; i += SIDE) {
      for (Long k = 0; k < blocks; k++)
        transpose_square(entries + k * SIDE * width + i, width, squares.data() + k * SIDE, blocks * SIDE);
      for (Long j = 0; j < c.tiles(); j++)
        multiply_halves<V, true>(blocks, (const uint16_t*)squares.data(), blocks * BLOCK_ENTRIES,
                                 pairs.data() + (j * G + first) * room * SQUARE, SQUARE, room * SQUARE,
                                 totals + (j * width + i) * V * LANES, V * LANES, LANES);
    }
  }
};
#endif
