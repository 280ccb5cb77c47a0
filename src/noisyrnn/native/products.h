// Products of rows with packed weights: the loops in which the time goes. The same for all kinds of cells.
#pragma once
#include <vector>

#include "call.h"
#include "memory.h"
#include "transpose.h"

// Rows of a tile of V vectors: as many as the registers hold.
constexpr int rows_of(int V) {
#if defined(__AVX512F__)
  return V <= 3 ? 8 : 6;
#elif defined(__AVX2__) && defined(__FMA__)
  return V <= 2 ? 6 : V == 3 ? 4 : 2;
#else
  return V <= 2 ? 4 : V == 3 ? 3 : 2;
#endif
}

// c[R][the first V] += rows (a[r][k]) times a panel (p[k][STRIDE vectors], of which V are used).
template <int R, int V, int STRIDE = V, int WIDTH = V>
INLINE void multiply(Long K, const float* a, Long stride, const float* p, vfloat c[R][WIDTH]) {
  for (Long k = 0; k < K; k++, p += STRIDE * LANES) {
    vfloat w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) w[v] = load(p + v * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vfloat s = splat(a[r * stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) c[r][v] += s * w[v];
    }
  }
}

// Calls f.template run<R>() with R = n, for n in [1, MOST]: tiles of fewer rows at the edge of a slice.
template <int MOST, class F>
INLINE void with_rows(Long n, const F& f) {
  if (n == MOST) f.template run<MOST>();
  else if constexpr (MOST > 1) with_rows<MOST - 1>(n, f);
}

// Calls f(first, count) for pieces of at most MOST of n rows.
template <int MOST, class F>
INLINE void in_pieces(Long n, const F& f) {
  for (Long r = 0; r < n; r += MOST) f(r, n - r < MOST ? n - r : (Long)MOST);
}

// The sums of R rows for J vectors of units: G vectors a row, of which the first W are of products with the state, and
// those from U on of products with the inputs, at sums + [unit vector * apart + row * G * LANES].
template <int G, int W, int U, int J>
struct SumTile {
  static constexpr int V = J * W, LONGEST = 128;
  static_assert(J == 1 || G == 1, "vectors of units side by side are for a single sum");
  const Call& c;
  const float *rows[2], *panel, *x;  // of the first row: the sources of the state, and the inputs at this step
  Long strides[2];
  float* sums;
  Long apart;

  template <int R>
  INLINE_MEMBER void run() const {
    const Long H = c.units, I = c.inputs, sources = c.shape().sources;
    constexpr int INPUTS = J * (G - U);
    vfloat sum[R][V] = {};
    const Long pieces = (H + LONGEST - 1) / LONGEST, piece = (H + pieces - 1) / pieces;
    for (Long p = 0; p < sources; p++)
      for (Long k = 0; k < H; k += piece) {  // a sum of sums where there are many: shorter chains of roundings
        vfloat part[R][V] = {};
        multiply<R, V>(H - k < piece ? H - k : piece, rows[p] + k, strides[p], panel + (p * H + k) * V * LANES, part);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) sum[r][v] += part[r][v];
      }
    const float* u = panel + sources * H * V * LANES;
    for (Long i = 0; i < I; i++)  // last, since it is often large: each addition to it rounds at its size
#pragma GCC unroll 4
      for (int v = U; v < V; v++) {
        const vfloat w = load(u + (i * INPUTS + v - U) * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) sum[r][v] += splat(x[r * c.x_row + i]) * w;
      }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) store(sums + v / W * apart + (r * G + v % W) * LANES, sum[r][v]);
    if constexpr (G > W) {  // of the inputs alone
      vfloat rest[R] = {};
      for (Long i = 0; i < I; i++) {
        const vfloat w = load(u + (i * INPUTS + INPUTS - 1) * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) rest[r] += splat(x[r * c.x_row + i]) * w;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) store(sums + (r * G + G - 1) * LANES, rest[r]);
    }
  }
};

// g (R, V vectors) += gradients of sums times transposed weights, for some vectors of units.
template <int V>
struct StateTile {
  const float *sums, *panel;  // sums: (tiles, rows, G vectors), of which the first `K` floats count
  Long K, row_stride, tiles, tile_stride, width;
  float* g;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat sum[R][V] = {};  // apart from g, which is larger: each addition to it would round at its size
    for (Long j = 0; j < tiles; j++)
      multiply<R, V, 2>(K, sums + j * tile_stride, row_stride, panel + j * K * 2 * LANES, sum);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        float* at = g + r * width + v * LANES;
        store(at, load(at) + sum[r][v]);
      }
  }
};

// Gradients of the inputs: R rows, one vector of channels.
struct InputTile {
  const float *sums, *panel;
  Long K, row_stride, tiles, tile_stride, channels;
  float* d_x;
  Long d_x_row;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat total[R] = {};
    for (Long j = 0; j < tiles; j++) {
      vfloat sum[R][1] = {};  // a sum of sums: shorter chains of roundings
      multiply<R, 1>(K, sums + j * tile_stride, row_stride, panel + j * K * LANES, sum);
      for (int r = 0; r < R; r++) total[r] += sum[r][0];
    }
    for (int r = 0; r < R; r++) store_some(d_x + r * d_x_row, total[r], channels);
  }
};

// totals (R entries, V vectors of sums) += entries (K, EVERY)ᵀ times gradients (K rows of `row_stride` floats). The
// vectors are those of J vectors of units, `apart` and `totals_apart` floats from one another.
template <int V, int J, int EVERY>
struct WeightTile {
  Long K;
  const float *entries, *sums;
  Long row_stride, apart;
  float* totals;
  Long totals_apart;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat sum[R][J * V] = {};
    const float* p = sums;
    for (Long k = 0; k < K; k++, p += row_stride) {
      vfloat w[J * V];
#pragma GCC unroll 4
      for (int v = 0; v < J * V; v++) w[v] = load(p + v / V * apart + v % V * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vfloat s = splat(entries[k * EVERY + r]);
#pragma GCC unroll 4
        for (int v = 0; v < J * V; v++) sum[r][v] += s * w[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < J * V; v++) {
        float* at = totals + v / V * totals_apart + (r * V + v % V) * LANES;
        store(at, load(at) + sum[r][v]);
      }
  }
};

template <int G, int W, int U, int J>
static void sum_rows(const Call& c, Long n, const float* const rows[2], const Long strides[2], const float* panel,
                     const float* x, float* sums, Long apart) {
  in_pieces<rows_of(J * W)>(n, [&](Long r, Long count) {
    const SumTile<G, W, U, J> tile = {
        c, {rows[0] + r * strides[0], rows[1] ? rows[1] + r * strides[1] : nullptr}, panel, x + r * c.x_row,
        {strides[0], strides[1]}, sums + r * G * LANES, apart};
    with_rows<rows_of(J * W)>(count, tile);
  });
}
typedef decltype(&sum_rows<1, 1, 0, 1>) SumRows;
static SumRows sum_rows_of(const Call& c, Long side) {
  switch (c.shape().groups * 8 + c.shape().weights) {
    case 8 + 1: return side == 2 ? sum_rows<1, 1, 0, 2> : sum_rows<1, 1, 0, 1>;
    case 16 + 2: return sum_rows<2, 2, 1, 1>;
    case 32 + 3: return sum_rows<4, 3, 1, 1>;
    default: return sum_rows<4, 4, 0, 1>;
  }
}


// The sums of a slice's rows in the forward pass.
class FloatSums {
 public:
  static constexpr bool TOGETHER = false;  // whether all vectors of units are summed before the first is used
  static Long padded(Long n) { return n; }  // rows for which there must be room
  FloatSums(const Call& c, Long n) : c(c), n(n) {}

  // The parts of the state that a step starts from, and its inputs.
  void begin(const float* const state[2], const Long state_row[2], const float* inputs) {
    for (int p = 0; p < 2; p++) rows[p] = state[p], row[p] = state_row[p];
    x = inputs;
  }
  // The sums of `side` vectors of units.
  void add(Long side, const float* panel, float* sums, Long apart) const {
    sum_rows_of(c, side)(c, n, rows, row, panel, x, sums, apart);
  }

 private:
  const Call& c;
  const Long n;
  const float *rows[2], *x;
  Long row[2];
};

// Blocks of memory at powers of two from one another would meet in the same few lines of the first cache.
constexpr Long APART = 64 / sizeof(float);

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
  std::vector<float> packed;

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
static void float_transposed(const Call& c, Long replica, std::vector<float>& weights, std::vector<float>& inputs) {
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
