// The backward pass of one slice of rows: all steps from the last to the first, with no word to other threads.
//
// From the gradients of a step's sums follow g of the old state and those of the weights. For DRIFT, with u the saved
// activation, q = mu dt g and w = q a'(z):
//   g of the old state  = g + Aᵀ (d q) + Wᵀ (d w),    d_A = d (q hᵀ),  d_W = d (w hᵀ),  d_U = d (w xᵀ),  d_b = d sum w,
//   d_d = sum q (A h + u) = sum over A * (q hᵀ) + sum q u,    so the product A h is not needed again.
// The multiplier mu was saved; the additive noise has no part in it. Products of several steps are summed in a
// block of their own before they join the total, which keeps the chains of roundings short.
#pragma once
#include <utility>
#include <vector>

#include "cells.h"
#include "half.h"
#include "noise.h"
#include "products.h"

// Sums over a slice: (TILES, entries, weights), (TILES, inputs, input groups), (TILES, biases and the step) and
// (TILES, columns), each in vectors.
struct Sums {
  Vector<float> weights, inputs, vectors, diffusion;
  void clear(const Call& c) {
    const Long width = c.width(), columns = c.d_diffusion ? c.columns : 0;
    if (c.d_W) weights = Memory::zeros(width * c.padded_entries() * c.shape().weights);
    inputs.assign(width * c.padded_inputs() * c.input_groups(), 0.f);
    vectors.assign(width * (c.shape().biases + 1), 0.f);
    diffusion.assign(width * columns, 0.f);
  }
  void add(const Sums& more) {
    for (auto [mine, other] : {std::pair{&weights, &more.weights}, {&inputs, &more.inputs}, {&vectors, &more.vectors},
                               {&diffusion, &more.diffusion}})
      for (size_t i = 0; i < mine->size(); i++) (*mine)[i] += (*other)[i];
  }
  bool empty() const { return vectors.empty(); }
  void release() {
    Memory::give_back(std::move(weights));
    *this = {};
  }
};

// What all slices of a replica read in the backward pass: transposed weights times d, for the product of the sums'
// gradients with them, and the biases and d of each vector of units.
struct Transposed {
  Vector<float> weights, inputs, constants;

  void fill(const Call& c, Long replica) {
    const float *d = c.step + replica * c.step_replica, *b = c.b + replica * c.b_replica;
    const Long biases = c.shape().biases, H = c.units;
    constants.assign(c.width() * (biases + 1), 0.f);
    for (Long j = 0; j < H; j++)
      for (Long i = 0; i <= biases; i++)
        constants[(j / LANES * (biases + 1) + i) * LANES + j % LANES] = i < biases ? b[i * H + j] : d[j];
#if defined(__AMX_BF16__)
    if (c.terms == 3) return half_transposed<3>(c, replica, weights, inputs);
#endif
#if defined(__AVX512BF16__)
    if (c.terms) return half_transposed<1>(c, replica, weights, inputs);
#endif
    float_transposed(c, replica, weights, inputs);
  }
};

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

template <class Gradients>
static void backward_slice(const Call& c, const Transposed& back, Long replica, Long begin, Long end, Sums& totals) {
  const Shape& shape = c.shape();
  const Long H = c.units, I = c.inputs, TILES = c.tiles(), WIDTH = c.width(), n = end - begin, parts = shape.parts;
  const Long plane = c.rows * H, origin = replica * c.steps * plane + begin * H, state = c.state();
  const Long saved_row = c.planes() * H, last_plane = (shape.saved - 1) * H, g_row = parts * WIDTH;
  const bool weights = c.d_W;  // whether their gradients are wanted
  const Long SPAN = n >= 128 || !weights ? 1 : (128 / n < c.steps ? 128 / n : c.steps), K = SPAN * n;  // steps a block of sums
  const Long G = shape.groups, tile_stride = K * G * LANES + APART, columns = c.d_diffusion ? c.columns : 0;
  const bool shifted = columns && !c.inside;
  Vector<float> g(Gradients::padded(n) * g_row + LANES), sums(TILES * tile_stride), first(n * H * parts), lasts(n, 1.0f);
  Vector<float> block(TILES * (shape.biases + 1) * LANES);  // sums of the biases and the step
  Vector<float> shifts(shifted ? TILES * K * LANES : 0), drawn(n * columns);
  Gradients products(c, n, K, tile_stride);
  Entries<1> of_columns(columns, K);
  SliceNoise noise(c, replica, begin, end);
  const Long* lengths = c.lengths ? c.lengths + replica * c.rows + begin : nullptr;
  totals.clear(c);
  for (Long r = 0; r < n; r++) {
    const Long row = begin + r;
    const float* initial = c.initial + replica * c.initial_replica + row * c.initial_row;
    if (c.kind == CURRENT) activate_row(c.activation, initial, &first[r * H], H);
    else memcpy(&first[r * H], initial, H * sizeof(float));
    if (parts == 2) memcpy(&first[(n + r) * H], initial + (state - H), H * sizeof(float));
    if (!c.grad_last) continue;
    const float* last = c.grad_last + replica * c.grad_last_replica + row * c.grad_last_row;
    if (c.kind != CURRENT) memcpy(&g[r * g_row], last, H * sizeof(float));
    if (parts == 2) memcpy(&g[r * g_row + WIDTH], last + (state - H), H * sizeof(float));
  }

  for (Long t = c.steps - 1, k = 0; t >= 0; t--) {
    const float* x = c.x + replica * c.x_replica + begin * c.x_row + t * c.x_step;
    const float* output = c.states + origin + t * plane;
    const float* saved = c.saved + (origin + t * plane) * c.planes();
    const float* old[2] = {t > 0 ? output - plane : first.data(), nullptr};
    Long old_row[2] = {H, H};
    if (parts == 2) {
      old[1] = t > 0 ? saved - plane * c.planes() + last_plane : first.data() + n * H;
      old_row[1] = t > 0 ? saved_row : H;
    }
    const float* outer =
        c.grad_states ? c.grad_states + replica * c.grad_replica + begin * c.grad_row + t * c.grad_step : nullptr;
    if (columns || c.dt) noise.step(t);
    for (Long r = 0; c.dt && r < n; r++) lasts[r] = noise.length((int)r);
    for (Long j = 0; j < TILES; j++) {
      const Long unit = j * LANES;
      const BackwardRows rows = {c, H, G, c.planes(), (int)n, t, H - unit, lengths, back.constants.data() + j * (shape.biases + 1) * LANES,
                                 g.data() + unit, g_row, WIDTH, outer ? outer + unit : nullptr, c.grad_row,
                                 {old[0] + unit, old[1] ? old[1] + unit : nullptr}, {old_row[0], old_row[1]},
                                 output + unit, H, saved + unit, saved_row,
                                 c.source ? saved + shape.saved * H + unit : noise.mu, c.source ? saved_row : LANES, lasts.data(),
                                 sums.data() + j * tile_stride + k * G * LANES,
                                 &block[j * (shape.biases + 1) * LANES],
                                 shifted ? shifts.data() + (j * K + k) * LANES : nullptr};
      cell_backward(rows);
    }
    products.begin(sums.data(), k);
    products.add_to_state(back.weights.data(), g.data(), g_row);
    if (c.d_x) products.to_inputs(back.inputs.data(), c.d_x + ((replica * c.rows + begin) * c.steps + t) * I, c.steps * I);
    if (!weights) continue;
    products.keep(old, old_row, x, c.x_row, lengths, t);
    if (columns) {
      for (Long r = 0; r < n; r++)
        for (Long i = 0; i < columns; i++) drawn[r * columns + i] = noise.column(i)[r * LANES];
      of_columns.pack(n, drawn.data(), columns, lengths, t, k);
    }
    k += n;
    if (k < K && t > 0) continue;
    for (size_t i = 0; i < block.size(); i++) totals.vectors[i] += block[i], block[i] = 0.f;
    products.add_to_weights(sums.data(), k, totals.weights.data(), totals.inputs.data());
    if (shifted) of_columns.add(c, k, shifts.data(), LANES, K * LANES, totals.diffusion.data(), columns * LANES);
    else if (columns)
      of_columns.add(c, k, sums.data() + (shape.weights - 1) * LANES, G * LANES, tile_stride, totals.diffusion.data(),
                     columns * LANES);
    k = 0;
  }
  for (Long r = 0; r < n; r++) {
    float* to = c.d_initial + (replica * c.rows + begin + r) * state;
    const float* of_row = &g[r * g_row];
    if (c.kind == CURRENT) activate_row_back(c.activation, &first[r * H], of_row, of_row + WIDTH, to, H);
    else memcpy(to, of_row, H * sizeof(float));
    if (c.kind != CURRENT && parts == 2) memcpy(to + H, of_row + WIDTH, H * sizeof(float));
  }
}
typedef decltype(&backward_slice<FloatGradients<1, 1, 0>>) BackwardSlice;
template <template <int, int, int> class Gradients>
static BackwardSlice backward_slice_with(const Call& c) {
  switch (c.shape().groups * 8 + c.shape().weights) {
    case 8 + 1: return backward_slice<Gradients<1, 1, 0>>;
    case 16 + 2: return backward_slice<Gradients<2, 2, 1>>;
    case 32 + 3: return backward_slice<Gradients<4, 3, 1>>;
    default: return backward_slice<Gradients<4, 4, 0>>;
  }
}
static BackwardSlice backward_slice_of(const Call& c) {
#if defined(__AMX_BF16__)
  if (c.terms == 3) return backward_slice_with<SplitGradients>(c);
#endif
#if defined(__AVX512BF16__)
  if (c.terms) return backward_slice_with<RoundedGradients>(c);
#endif
  return backward_slice_with<FloatGradients>(c);
}

// The sums of all slices of a replica, as gradients of the weights.
static void write_gradients(const Call& c, Long replica, const Sums& total) {
  if (!c.d_W) return;
  const Shape& shape = c.shape();
  const Long H = c.units, I = c.inputs, ENTRIES = c.entries(), V = shape.weights, groups = c.input_groups();
  const Long vectors = (shape.biases + 1) * LANES, columns = c.d_diffusion ? c.columns : 0;
  const Long own = c.W_size(), PADDED = c.padded_entries(), INPUTS = c.padded_inputs();
  const float* d = c.step + replica * c.step_replica;
  for (Long first = 0; first < H; first += LANES) {
    const Long some = H - first < LANES ? H - first : LANES;
    for (Long g = 0; g < V; g++) {
      const bool linear = c.kind == DRIFT && g == 0;
      float* to = (linear ? c.d_A + replica * H * H : c.d_W + replica * own + c.weight_block(g) * H * ENTRIES) + first * ENTRIES;
      for (Long source = 0; source < shape.sources; source++)
        transpose(&total.weights[(first * PADDED + source * c.width() * LANES) * V + g * LANES], V * LANES, H, some,
                  to + source * H, ENTRIES);
      for (Long l = 0; l < some; l++) {
        const Long j = first + l;
        if (linear) {
          const double along = dot(c.A + replica * c.A_replica + j * H, to + l * H, H);
          c.d_step[replica * H + j] = (float)(total.vectors[first * (shape.biases + 1) + LANES + l] + along);
        }
        scale(to + l * ENTRIES, ENTRIES, d[j]);
      }
    }
    for (Long l = 0; l < some; l++) {
      const Long j = first + l;
      const float* sums = &total.vectors[first / LANES * vectors + l];
      for (Long i = 0; i < shape.biases; i++)
        c.d_b[(replica * shape.biases + i) * H + j] = sums[i * LANES] * d[j];
      if (c.kind != DRIFT) c.d_step[replica * H + j] = sums[shape.biases * LANES];
      for (Long g = 0; g < groups; g++)
        for (Long i = 0; i < I; i++)
          c.d_U[((replica * groups + g) * H + j) * I + i] =
              total.inputs[(first * INPUTS + i * LANES) * groups + g * LANES + l] * d[j];
      for (Long i = 0; i < columns; i++)
        c.d_diffusion[(replica * H + j) * columns + i] =
            total.diffusion[first * columns + i * LANES + l] * (c.inside ? d[j] : 1.0f);
    }
  }
}
