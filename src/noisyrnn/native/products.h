// The products of a slice of rows in float, forwards and backwards. The same for all kinds of cells; half.h has those of
// bf16 under the same names.
#pragma once
#include <vector>

#include "memory.h"
#include "tiles.h"

// Panels whose sums of n rows are made together, with V vectors in each: each addition to a sum waits for the one before,
// so that the processor needs some eight sums to have something to do.
constexpr int panels_together(Long n, int V) { return n * V <= 2 ? 4 : n * V < 8 ? 2 : 1; }
// The most rows for which these are N.
constexpr int most_rows(int N, int V) { return N == 4 ? 2 / V : N == 2 ? 7 / V : rows_of(V); }

template <int G, int W, int U, int J, int N>
static void sum_rows(const Call& c, Long n, const float* const rows[2], const Long strides[2], const float* panel,
                     Long panels_apart, const float* x, float* sums, Long apart) {
  constexpr int MOST = most_rows(N, J * W);
  in_pieces<MOST>(n, [&](Long r, Long count) {
    const SumTile<G, W, U, J, N> tile = {
        c, {rows[0] + r * strides[0], rows[1] ? rows[1] + r * strides[1] : nullptr}, panel, x + r * c.x_row,
        panels_apart, {strides[0], strides[1]}, sums + r * G * LANES, apart};
    with_rows<MOST>(count, tile);
  });
}
typedef decltype(&sum_rows<1, 1, 0, 1, 1>) SumRows;
template <int G, int W, int U, int J>
static SumRows sum_rows_of(Long panels) {
  if constexpr (most_rows(4, J * W) > 0)
    if (panels == 4) return sum_rows<G, W, U, J, 4>;
  return panels == 1 ? sum_rows<G, W, U, J, 1> : sum_rows<G, W, U, J, 2>;
}
static SumRows sum_rows_of(const Call& c, Long side, Long panels) {
  switch (c.shape().groups * 8 + c.shape().weights) {
    case 8 + 1: return side == 2 ? sum_rows_of<1, 1, 0, 2>(panels) : sum_rows<1, 1, 0, 1, 1>;
    case 16 + 2: return sum_rows_of<2, 2, 1, 1>(panels);
    case 32 + 3: return sum_rows_of<4, 3, 1, 1>(panels);
    default: return sum_rows_of<4, 4, 0, 1>(panels);
  }
}

// The sums of a slice's rows in the forward pass.
class FloatSums {
 public:
  static Long padded(Long n) { return n; }  // rows for which there must be room
  FloatSums(const Call& c, Long n)
      : c(c), n(n), panels(panels_together(n, (int)(c.shape().weights * side_by_side(c, 0)))) {}

  // Vectors of units, from number `from` on, that are summed before the first of them is used.
  Long together(Long from) const { return panels > 1 ? c.tiles() - from : side_by_side(c, from); }

  // The parts of the state that a step starts from, and its inputs.
  void begin(const float* const state[2], const Long state_row[2], const float* inputs) {
    for (int p = 0; p < 2; p++) rows[p] = state[p], row[p] = state_row[p];
    x = inputs;
  }
  // The sums of some vectors of units, from number `from` on; `packed` has all panels.
  void add(Long from, Long count, const float* packed, float* sums, Long apart) const {
    const Long size = panel_size(c);
    for (Long j = 0; j < count;) {
      const Long side = side_by_side(c, from + j), whole = (count - j) / side;
      const Long some = whole >= panels ? panels : whole >= 2 ? 2 : 1;
      sum_rows_of(c, side, some)(c, n, rows, row, packed + (from + j) * size, side * size, x, sums + j * apart, apart);
      j += some * side;
    }
  }

 private:
  const Call& c;
  const Long n, panels;
  const float *rows[2], *x;
  Long row[2];
};

// Entries of n rows to (blocks of EVERY entries, K, EVERY), from place k on; a row past its end counts as zeros.
template <int EVERY>
static inline void pack_entries(Long n, Long size, const float* from, Long stride, const Long* lengths, Long t, Long block,
                                Long k, float* to) {
  for (Long i = 0; i < size; i += EVERY) {
    const Long some = size - i < EVERY ? size - i : EVERY;
    float* out = to + i / EVERY * block + k * EVERY;
    for (Long r = 0; r < n; r++, out += EVERY) {
      if (lengths && lengths[r] <= t) memset(out, 0, EVERY * sizeof(float));
      else if (some == EVERY) memcpy(out, from + r * stride + i, EVERY * sizeof(float));
      else memcpy(out, from + r * stride + i, some * sizeof(float));
    }
  }
}

// What one kind of operand makes of the gradients of V sums a unit: its entries over a block of steps, packed, and the
// products that add up to gradients of weights.
template <int V>
struct Entries {
  static constexpr int J = V == 1 ? 2 : 1, EVERY = rows_of(J * V);
  const Long size, block;
  Vector<float> packed;

  Entries(Long size, Long K) : size(size), block(K * EVERY + APART), packed((size + EVERY - 1) / EVERY * block) {}

  void pack(Long n, const float* from, Long stride, const Long* lengths, Long t, Long k) {
    pack_entries<EVERY>(n, size, from, stride, lengths, t, block, k, packed.data());
  }

  // totals[vector of units] += entriesᵀ times its sums' gradients, of K rows.
  void add(const Call& c, Long K, const float* sums, Long row_stride, Long apart, float* totals, Long totals_apart) const {
    Long j = 0;
    for (; j + J <= c.tiles(); j += J) add_tiles<J>(K, sums + j * apart, row_stride, apart, totals + j * totals_apart, totals_apart);
    for (; j < c.tiles(); j++) add_tiles<1>(K, sums + j * apart, row_stride, apart, totals + j * totals_apart, totals_apart);
  }

 private:
  template <int SIDE>
  void add_tiles(Long K, const float* sums, Long row_stride, Long apart, float* totals, Long totals_apart) const {
    in_pieces<EVERY>(size, [&](Long i, Long count) {
      with_rows<EVERY>(count, WeightTile<V, SIDE, EVERY>{K, packed.data() + i / EVERY * block, sums, row_stride, apart,
                                                         totals + i * V * LANES, totals_apart});
    });
  }
};

// For each pair of vectors of state entries, and each vector of units, `weights` * LANES rows of two vectors. The same for
// U's columns, with one vector.
static void float_transposed(const Call& c, Long replica, Vector<float>& weights, Vector<float>& inputs) {
  const Long H = c.units, G = c.shape().weights, TILES = c.tiles(), ENTRIES = c.entries(), groups = c.input_groups();
  const Long pairs = (TILES * c.shape().sources + 1) / 2, input_vectors = c.d_x ? (c.inputs + LANES - 1) / LANES : 0;
  const float* d = c.step + replica * c.step_replica;
  const auto scale_to = [](const float* from, Long some, float factor, float* to) {
    for (Long k = 0; k < LANES && k < some; k++) to[k] = factor * from[k];
  };
  weights = Memory::zeros(pairs * TILES * G * LANES * 2 * LANES);
  inputs.assign(input_vectors * TILES * groups * LANES * LANES, 0.f);
  for (Long g = 0; g < G; g++)
    for (Long j = 0; j < H; j++) {
      const float* row = c.weights_of(replica, g) + j * ENTRIES;
      const Long place = ((j / LANES * G + g) * LANES + j % LANES) * 2 * LANES, apart = TILES * G * LANES * 2 * LANES;
      for (Long source = 0; source < c.shape().sources; source++)
        for (Long v = 0; v < TILES; v++) {
          const Long to = source * TILES + v;
          scale_to(row + source * H + v * LANES, H - v * LANES, d[j], &weights[place + to / 2 * apart + to % 2 * LANES]);
        }
    }
  for (Long g = 0; g < groups && input_vectors; g++)
    for (Long j = 0; j < H; j++) {
      const float* row = c.inputs_of(replica, c.shape().first_input + g) + j * c.inputs;
      for (Long v = 0; v < input_vectors; v++)
        scale_to(row + v * LANES, c.inputs - v * LANES, d[j],
                 &inputs[((v * TILES + j / LANES) * groups + g) * LANES * LANES + j % LANES * LANES]);
    }
}

// What follows from the gradients of the sums of a slice's rows: (TILES, K rows, G vectors), of which W are of products
// with the state, and those from U on of products with the inputs.
template <int G, int W, int U>
class FloatGradients {
 public:
  static Long padded(Long n) { return n; }
  FloatGradients(const Call& c, Long n, Long K, Long tile_stride)
      : c(c), n(n), tile_stride(tile_stride), of_state(c.units, K), of_second(c.shape().sources == 2 ? c.units : 0, K),
        of_inputs(c.inputs, K) {}

  // The gradients of one step are there, from row k of a block of steps on.
  void begin(const float* sums, Long row) { now = sums + row * G * LANES, k = row; }

  void add_to_state(const float* weights, float* g, Long g_row) const {
    const Long TILES = c.tiles(), vectors = TILES * c.shape().sources, K = W * LANES;
    for (Long p = 0; p < vectors; p += 2)
      for (Long j = 0; j < TILES; j += NEAR) {
        const Long some = TILES - j < NEAR ? TILES - j : NEAR;
        const float* panel = weights + (p / 2 * TILES + j) * K * 2 * LANES;
        in_pieces<rows_of(2)>(n, [&](Long r, Long count) {
          const float* rows = now + j * tile_stride + r * G * LANES;
          float* out = g + r * g_row + p * LANES;
          if (p + 1 < vectors)
            with_rows<rows_of(2)>(count, StateTile<2>{rows, panel, K, G * LANES, some, tile_stride, g_row, out});
          else with_rows<rows_of(2)>(count, StateTile<1>{rows, panel, K, G * LANES, some, tile_stride, g_row, out});
        });
      }
  }

  void to_inputs(const float* weights, float* d_x, Long d_x_row) const {
    const Long TILES = c.tiles(), K = (G - U) * LANES;
    for (Long v = 0; v * LANES < c.inputs; v++)
      in_pieces<rows_of(1)>(n, [&](Long r, Long count) {
        with_rows<rows_of(1)>(count, InputTile{now + (r * G + U) * LANES, weights + v * TILES * K * LANES, K, G * LANES,
                                               TILES, tile_stride, c.inputs - v * LANES, d_x + r * d_x_row + v * LANES,
                                               d_x_row});
      });
  }

  // Keeps what the step's sums were made of, until the block of steps is full.
  void keep(const float* const old[2], const Long old_row[2], const float* x, Long x_row, const Long* lengths, Long t) {
    of_state.pack(n, old[0], old_row[0], nullptr, t, k);
    if (c.shape().sources == 2) of_second.pack(n, old[1], old_row[1], nullptr, t, k);
    of_inputs.pack(n, x, x_row, lengths, t, k);
  }

  // Adds the gradients of the weights over a block of K rows.
  void add_to_weights(const float* sums, Long K, float* weights, float* inputs) const {
    const Long apart = c.padded_entries() * W * LANES;
    of_state.add(c, K, sums, G * LANES, tile_stride, weights, apart);
    if (c.shape().sources == 2)
      of_second.add(c, K, sums, G * LANES, tile_stride, weights + c.width() * W * LANES, apart);
    of_inputs.add(c, K, sums + U * LANES, G * LANES, tile_stride, inputs, c.padded_inputs() * (G - U) * LANES);
  }

 private:
  static constexpr Long NEAR = 64 / LANES;  // vectors of units whose transposed weights stay in the first cache
  const Call& c;
  const Long n, tile_stride;
  const float* now = nullptr;
  Long k = 0;
  Entries<W> of_state, of_second;
  Entries<G - U> of_inputs;
};
