// The products of a slice of rows in bf16 numbers, forwards and backwards: what products.h has in float, under the same
// names. squares.h has the numbers and their products.
#pragma once
#include <vector>

#include "squares.h"

#if defined(__AVX512BF16__)
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
      uint16_t* of_state = g < W ? &rows[place_on_left<TERMS>(r, (j * W + g) * LANES, blocks)] : nullptr;
      uint16_t* of_inputs = g >= U && c.d_x ? &input_rows[place_on_left<TERMS>(r, (j * (G - U) + g - U) * LANES, of_x)] : nullptr;
      float* of_weights = pairs.data() + (j * G + g) * of_vector;
      for (Long i = 0; i < some; i += 2) {
        const float* at = from + (i * G + g) * LANES;
        const Long place = place_of_pair<TERMS>(pair + (r + i) / 2, 0);
        __m512i halves[TERMS];
        halves_of<TERMS>(load(at), i + 1 < some ? load(at + G * LANES) : (vfloat){}, halves);
#pragma GCC unroll 3
        for (int p = 0; p < TERMS; p++) {
          if (of_state) store_rows(halves[p], of_state + i * BLOCK_ENTRIES + p * HALVES);
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
