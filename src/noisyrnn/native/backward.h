// The backward pass of one slice of rows: all steps from the last to the first, with no word to other threads.
//
// With g the gradient of a step's new state, q = g mu dt, u the saved tanh and w = q (1 - u²):
//   g of the old state  = g + Aᵀ (d q) + Wᵀ (d w),    d_A = d (q hᵀ),  d_W = d (w hᵀ),  d_U = d (w xᵀ),  d_b = d sum w,
//   d_d = sum q (A h + u) = sum over A * (q hᵀ) + sum q u,    so the product A h is not needed again.
// The multiplier mu is drawn again; the additive noise has no part in it. Products of several steps are summed in a
// block of their own before they join the total, which keeps the chains of roundings short.
#pragma once
#include <utility>
#include <vector>

#include "call.h"
#include "memory.h"
#include "transpose.h"

// Sums over a slice: (TILES, H, G vectors), (TILES, I, vector), (TILES, vector) twice.
struct Sums {
  std::vector<float> weights, inputs, b, qu;
  void clear(const Call& c) {
    const Long width = c.tiles() * LANES;
    weights = Memory::zeros(width * c.units * c.groups);
    inputs.assign(width * c.inputs, 0.f);
    b.assign(width, 0.f);
    qu.assign(width, 0.f);
  }
  void add(const Sums& more) {
    for (auto [mine, other] : {std::pair{&weights, &more.weights}, {&inputs, &more.inputs}, {&b, &more.b}, {&qu, &more.qu}})
      for (size_t i = 0; i < mine->size(); i++) (*mine)[i] += (*other)[i];
  }
  bool empty() const { return b.empty(); }
  void release() {
    Memory::give_back(std::move(weights));
    *this = {};
  }
};

// Transposed weights times d, for the product of (q, w) with them: for each pair of vectors of state entries, and each
// vector of units, G * LANES rows of two vectors. The same for U's columns, with w alone and one vector.
struct Transposed {
  Long pairs = 0, input_vectors = 0;
  std::vector<float> weights, inputs;

  void fill(const Call& c, Long replica) {
    const Long H = c.units, G = c.groups, TILES = c.tiles();
    pairs = (TILES + 1) / 2, input_vectors = c.d_x ? (c.inputs + LANES - 1) / LANES : 0;
    weights = Memory::zeros(pairs * TILES * G * LANES * 2 * LANES);
    inputs.assign(input_vectors * TILES * LANES * LANES, 0.f);
    const float *d = c.step + replica * c.step_replica, *U = c.U + replica * c.U_replica;
    for (Long j = 0; j < H; j++) {
      for (Long g = 0; g < G; g++) {
        const float* row = (G == 2 && g == 0 ? c.A + replica * c.A_replica : c.W + replica * c.W_replica) + j * H;
        const Long place = (j / LANES * G + g) * LANES + j % LANES;
        scatter<2 * LANES>(row, H, d[j], &weights[place * 2 * LANES], TILES * G * LANES * 2 * LANES);
      }
      if (input_vectors) scatter<LANES>(U + j * c.inputs, c.inputs, d[j], &inputs[j * LANES], TILES * LANES * LANES);
    }
  }

  // factor * from (size), cut into pieces of N that lie `apart` floats from one another.
  template <int N>
  static void scatter(const float* from, Long size, float factor, float* to, Long apart) {
    for (Long i = 0; i < size; i += N, to += apart)
      for (Long k = 0; k < N && i + k < size; k++) to[k] = factor * from[i + k];
  }
};

// g (R, 2 vectors) += q and w of some vectors of units times their transposed weights.
template <int G, int V>
struct StateTile {
  const float *qw, *panel;
  Long tiles, tile_stride, width;
  float* g;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat sum[R][V] = {};  // apart from g, which is larger: each addition to it would round at its size
    for (Long j = 0; j < tiles; j++)
      multiply<R, V, 2>(G * LANES, qw + j * tile_stride, G * LANES, panel + j * G * LANES * 2 * LANES, sum);
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
template <int G>
struct InputTile {
  const Call& c;
  const float *qw, *panel;
  Long tiles, tile_stride, channels;
  float* d_x;
  Long row_stride;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat total[R] = {};
    for (Long j = 0; j < tiles; j++) {
      vfloat sum[R][1] = {};  // a sum of sums: shorter chains of roundings
      multiply<R, 1>(LANES, qw + j * tile_stride + (G - 1) * LANES, G * LANES, panel + j * LANES * LANES, sum);
      for (int r = 0; r < R; r++) total[r] += sum[r][0];
    }
    for (int r = 0; r < R; r++) store_some(d_x + r * row_stride, total[r], channels);
  }
};

// sums (R state entries or channels, V vectors of units) += entries (K, ROWS)ᵀ times qw (K, G vectors).
template <int G, int V>
struct WeightTile {
  Long K;
  const float *entries, *qw;
  float* sums;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat sum[R][V] = {};
    const float* p = qw + (G - V) * LANES;
    for (Long k = 0; k < K; k++, p += G * LANES) {
      vfloat w[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) w[v] = load(p + v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vfloat s = splat(entries[k * ROWS + r]);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sum[r][v] += s * w[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        float* at = sums + (r * V + v) * LANES;
        store(at, load(at) + sum[r][v]);
      }
  }
};

// Entries of n rows to (blocks of ROWS entries, K, ROWS), from place k on; a row past its end counts as zeros.
static inline void pack_entries(Long n, Long size, const float* from, Long stride, const Long* lengths, Long t, Long K,
                                Long k, float* to) {
  for (Long i = 0; i < size; i += ROWS) {
    const Long some = size - i < ROWS ? size - i : ROWS;
    float* out = to + i * K + k * ROWS;
    for (Long r = 0; r < n; r++, out += ROWS) {
      if (lengths && lengths[r] <= t) memset(out, 0, ROWS * sizeof(float));
      else if (some == ROWS) memcpy(out, from + r * stride + i, ROWS * sizeof(float));
      else memcpy(out, from + r * stride + i, some * sizeof(float));
    }
  }
}

// q and w of all rows for one vector of units; joins the gradient of this step's outputs to g first.
template <int G>
static inline void step_gradients(const Call& c, const Keys& keys, const UnitTable* unit, Long replica, Long begin,
                                  Long end, Long j, Long t, const StepScales& s, float* mu, float* g, float* qw,
                                  float* sums_b, float* sums_qu) {
  const Long unit0 = j * LANES, H = c.units, some = H - unit0, width = c.tiles() * LANES, plane = c.rows * H;
  const Long n = end - begin;
  const float* tanhs = c.tanhs + (replica * c.steps + t) * plane + begin * H + unit0;
  const float* outer =
      c.grad_states ? c.grad_states + replica * c.grad_replica + begin * c.grad_row + t * c.grad_step + unit0 : nullptr;
  const Long* lengths = c.lengths ? c.lengths + replica * c.rows + begin : nullptr;
  if (c.source) draw_noise<false>(c, keys, *unit, begin, (int)n, t, s, mu, nullptr);
  vfloat sum_b = {}, sum_qu = {};
  for (Long r = 0; r < n; r++) {
    if (t > 1) {  // what the step before will read
      __builtin_prefetch(tanhs - plane + r * H, 0, 2);
      __builtin_prefetch(c.states + (tanhs - c.tanhs) - 2 * plane + r * H, 0, 2);
    }
    float* out = qw + r * G * LANES;
    if (lengths && lengths[r] <= t) {
      memset(out, 0, G * LANES * sizeof(float));
      continue;
    }
    vfloat gradient = load(g + r * width + unit0);
    if (outer) {
      gradient += load_some(outer + r * c.grad_row, some);
      store(g + r * width + unit0, gradient);
    }
    const vfloat q = gradient * (c.source ? load(mu + (r + 1) * LANES) : splat(s.length[begin + r]));
    const vfloat u = load_some(tanhs + r * H, some), qu = q * u, w = q - qu * u;
    if (G == 2) store(out, q);
    store(out + (G - 1) * LANES, w);
    sum_b += w;
    sum_qu += qu;
  }
  store(sums_b, load(sums_b) + sum_b);
  store(sums_qu, load(sums_qu) + sum_qu);
}

static inline void scale(float* row, Long n, float factor) {
  for (Long i = 0; i < n; i++) row[i] *= factor;
}

static inline double dot(const float* a, const float* b, Long n) {
  constexpr int PARTS = 8;  // side by side: one sum would wait for itself
  double sums[PARTS] = {}, sum = 0.0;
  Long i = 0;
  for (; i + PARTS <= n; i += PARTS)
    for (int k = 0; k < PARTS; k++) sums[k] += (double)a[i + k] * b[i + k];
  for (; i < n; i++) sum += (double)a[i] * b[i];
  for (double part : sums) sum += part;
  return sum;
}

template <int G>
static void backward_slice(const Call& c, const Transposed& back, Long replica, Long begin, Long end, Sums& sums) {
  const Long H = c.units, I = c.inputs, TILES = c.tiles(), WIDTH = TILES * LANES, n = end - begin;
  const Long plane = c.rows * H, origin = replica * c.steps * plane + begin * H;
  const Long SPAN = n >= 128 ? 1 : (128 / n < c.steps ? 128 / n : c.steps), K = SPAN * n;  // steps a block of sums
  const Long tile_stride = K * G * LANES, blocks = (H + ROWS - 1) / ROWS, x_blocks = (I + ROWS - 1) / ROWS;
  const Long NEAR = 64 / LANES;  // vectors of units whose transposed weights stay in the first cache
  std::vector<float> g(n * WIDTH + LANES), qw(TILES * tile_stride), first(n * H), scales(3 * (n + 2)), mu((n + 3) * LANES);
  std::vector<float> entries(blocks * ROWS * K), x_entries(x_blocks * ROWS * K);
  std::vector<UnitTable> units;
  const Keys keys(c.seeds[replica]);
  const StepScales s = {scales.data() + 1 - begin, scales.data() + n + 3 - begin, scales.data() + 2 * n + 5 - begin};
  const Long* lengths = c.lengths ? c.lengths + replica * c.rows + begin : nullptr;
  sums.clear(c);
  if (c.source)
    for (Long j = 0; j < TILES; j++) units.emplace_back(keys, (uint32_t)(j * LANES), (uint32_t)c.stream);
  for (Long r = 0; r < n; r++) {
    const Long row = begin + r;
    memcpy(&first[r * H], c.initial + replica * c.initial_replica + row * c.initial_row, H * sizeof(float));
    if (c.grad_last)
      memcpy(&g[r * WIDTH], c.grad_last + replica * c.grad_last_replica + row * c.grad_last_row, H * sizeof(float));
  }
  fill_scales(c, replica, begin, end, 0, s);

  for (Long t = c.steps - 1, k = 0; t >= 0; t--) {
    const float* x = c.x + replica * c.x_replica + begin * c.x_row + t * c.x_step;
    const float* h = t > 0 ? c.states + origin + (t - 1) * plane : first.data();
    if (c.dt) fill_scales(c, replica, begin, end, t, s);
    for (Long j = 0; j < TILES; j++)
      step_gradients<G>(c, keys, c.source ? &units[j] : nullptr, replica, begin, end, j, t, s, mu.data(), g.data(),
                        qw.data() + j * tile_stride + k * G * LANES, &sums.b[j * LANES], &sums.qu[j * LANES]);
    const float* now = qw.data() + k * G * LANES;
    for (Long p = 0; p < back.pairs; p++)
      for (Long j = 0; j < TILES; j += NEAR)
        for (Long r = 0; r < n; r += ROWS) {
          const int count = (int)(n - r < ROWS ? n - r : ROWS);
          const Long some = TILES - j < NEAR ? TILES - j : NEAR;
          const float *rows = now + j * tile_stride + r * G * LANES,
                      *panel = back.weights.data() + (p * TILES + j) * G * LANES * 2 * LANES;
          float* out = g.data() + r * WIDTH + p * 2 * LANES;
          if (p * 2 + 1 < TILES) with_rows(count, StateTile<G, 2>{rows, panel, some, tile_stride, WIDTH, out});
          else with_rows(count, StateTile<G, 1>{rows, panel, some, tile_stride, WIDTH, out});
        }
    for (Long v = 0; v < back.input_vectors; v++)
      for (Long r = 0; r < n; r += ROWS)
        with_rows((int)(n - r < ROWS ? n - r : ROWS),
                  InputTile<G>{c, now + r * G * LANES, back.inputs.data() + v * TILES * LANES * LANES, TILES,
                               tile_stride, I - v * LANES,
                               c.d_x + ((replica * c.rows + begin + r) * c.steps + t) * I + v * LANES, c.steps * I});
    pack_entries(n, H, h, H, nullptr, t, K, k, entries.data());
    pack_entries(n, I, x, c.x_row, lengths, t, K, k, x_entries.data());
    k += n;
    if (k < K && t > 0) continue;
    for (Long j = 0; j < TILES; j++) {
      const float* of_units = qw.data() + j * tile_stride;
      for (Long i = 0; i < H; i += ROWS)
        with_rows((int)(H - i < ROWS ? H - i : ROWS),
                  WeightTile<G, G>{k, entries.data() + i * K, of_units, &sums.weights[(j * H + i) * G * LANES]});
      for (Long i = 0; i < I; i += ROWS)
        with_rows((int)(I - i < ROWS ? I - i : ROWS),
                  WeightTile<G, 1>{k, x_entries.data() + i * K, of_units, &sums.inputs[(j * I + i) * LANES]});
    }
    k = 0;
  }
  for (Long r = 0; r < n; r++)
    memcpy(c.d_initial + (replica * c.rows + begin + r) * H, &g[r * WIDTH], H * sizeof(float));
}

// The sums of all slices of a replica, as gradients of the weights.
static void write_gradients(const Call& c, Long replica, const Sums& total) {
  const Long H = c.units, I = c.inputs, G = c.groups;
  const float* d = c.step + replica * c.step_replica;
  for (Long first = 0; first < H; first += LANES) {
    const Long some = H - first < LANES ? H - first : LANES;
    const float *q = &total.weights[first * H * G], *w = q + (G - 1) * LANES;
    float* d_W = c.d_W + (replica * H + first) * H;
    float* d_A = G == 2 ? c.d_A + (replica * H + first) * H : nullptr;
    transpose(w, G * LANES, H, some, d_W, H);
    if (G == 2) transpose(q, G * LANES, H, some, d_A, H);
    for (Long l = 0; l < some; l++) {
      const Long j = first + l;
      double along_A = 0.0;
      scale(d_W + l * H, H, d[j]);
      if (G == 2) {
        along_A = dot(c.A + replica * c.A_replica + j * H, d_A + l * H, H);
        scale(d_A + l * H, H, d[j]);
      }
      for (Long i = 0; i < I; i++) c.d_U[(replica * H + j) * I + i] = total.inputs[first * I + i * LANES + l] * d[j];
      c.d_b[replica * H + j] = total.b[j] * d[j];
      c.d_step[replica * H + j] = (float)(total.qu[j] + along_A);
    }
  }
}
