// What both passes are told, and the order of floats in packed weights. library.py mirrors this struct.
#pragma once
#include <cstddef>

#include "philox.h"

typedef int64_t Long;
typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel

// One pass of h <- h + mu * d dt (A h + tanh(W h + U x + b)) + eta over R replicas, B rows, T steps, I inputs, H units.
// Strides count floats; the last axis of every array is contiguous. `…_bytes` is the memory from the pointer on; check.h
// compares it with what the pass touches.
struct Call {
  Long replicas, rows, steps, inputs, units, groups;  // groups: 2 products a unit (A h, W h), or 1 (W h)
  const float* x;
  Long x_bytes, x_replica, x_row, x_step;
  const float* initial;  // (R, B, H)
  Long initial_bytes, initial_replica, initial_row;
  const float* dt;  // or null
  Long dt_bytes, dt_replica, dt_row, dt_step;
  const Long* lengths;  // (R, B), or null
  Long lengths_bytes;
  const uint64_t* seeds;  // (R)
  Long seeds_bytes;
  const float* A;  // (R, H, H), or null
  Long A_bytes, A_replica;
  const float* W;  // (R, H, H)
  Long W_bytes, W_replica;
  const float* U;  // (R, H, I)
  Long U_bytes, U_replica;
  const float* b;  // (R, H)
  Long b_bytes, b_replica;
  const float* step;  // (R, H)
  Long step_bytes, step_replica;
  float* packed;  // the weights as the forward pass reads them, by noisyrnn_pack; (R or 1, packed size)
  Long packed_bytes, packed_replica;
  Long source, first_row, first_step, stream;  // of the noise; NoiseSource of kernels/call.py
  float additive, base, slope;
  float* states;  // (R, T, B, H), zero past a row's end; null: not kept
  Long states_bytes;
  float* tanhs;  // (R, T, B, H); null: not kept
  Long tanhs_bytes;
  float* last;  // (R, B, H)
  Long last_bytes;
  // The backward pass alone.
  const float* grad_states;  // (R, B, T, H), or null
  Long grad_states_bytes, grad_replica, grad_row, grad_step;
  const float* grad_last;  // (R, B, H), or null
  Long grad_last_bytes, grad_last_replica, grad_last_row;
  float *d_x, *d_initial, *d_A, *d_W, *d_U, *d_b, *d_step;  // contiguous; d_x null: not wanted
  Long d_x_bytes, d_initial_bytes, d_A_bytes, d_W_bytes, d_U_bytes, d_b_bytes, d_step_bytes;
  Long threads;
  Parallel parallel;  // or null: threads of our own

  Long tiles() const { return (units + LANES - 1) / LANES; }  // vectors of units, the last of which may reach past them
  bool noisy() const { return source != 0 || additive != 0; }
  bool scaled() const { return noisy() || dt; }  // whether steps differ from one another
};

// Packed weights, one panel for each vector of units: H rows of `groups` vectors (A's, then W's), I rows of U, b, d.
INLINE Long panel_size(const Call& c) { return (c.units * c.groups + c.inputs + 2) * LANES; }

// What one step of a slice of rows multiplies its noise by, and how long it lasts; one entry a row, with a spare before
// and after, since noise is drawn for pairs of rows.
struct StepScales {
  float *length, *additive, *slope;
};

// Noise of N pairs of rows for one vector of units, side by side so that the processor always has something to do.
template <bool ETA, int N>
static inline void draw_pairs(const Call& c, const Keys& keys, const UnitTable& unit, Long row, Long pair, Long t,
                              const StepScales& s, float* mu, float* eta) {
  vword words[4][N];
  words_of_pairs<N>(keys, unit, (uint32_t)pair, (uint32_t)(c.first_step + t), words);
#pragma GCC unroll 1
  for (int i = 0; i < N; i++) {
    const Long k = 2 * (pair + i) - c.first_row - row;  // of the pair's first row, among this tile's
    vfloat n[2] = {}, m[2] = {};
    if ((ETA && c.additive != 0) || c.source == 3) normals_of(words[0][i], words[1][i], n[0], n[1]);
    if (c.source == 1) m[0] = uniform_of(words[2][i]), m[1] = uniform_of(words[3][i]);
    if (c.source == 2) normals_of(words[2][i], words[3][i], m[0], m[1]);
    if (c.source == 3) m[0] = n[0], m[1] = n[1];
#pragma GCC unroll 2
    for (int q = 0; q < 2; q++) {
      store(mu + (k + q + 1) * LANES, (m[q] * s.slope[row + k + q] + c.base) * s.length[row + k + q]);
      if (ETA) store(eta + (k + q + 1) * LANES, n[q] * s.additive[row + k + q]);
    }
  }
}

// Noise of `count` rows from `row` on, for one vector of units: mu and eta of row r at [(r + 1) * LANES], each with a
// spare row before and after, since pairs of the path's rows may begin before and end after. ETA: whether the additive
// noise is wanted too.
template <bool ETA>
static inline void draw_noise(const Call& c, const Keys& keys, const UnitTable& unit, Long row, int count, Long t,
                              const StepScales& s, float* mu, float* eta) {
  Long pair = (c.first_row + row) >> 1;
  const Long end = ((c.first_row + row + count - 1) >> 1) + 1;
  for (; end - pair >= 4; pair += 4) draw_pairs<ETA, 4>(c, keys, unit, row, pair, t, s, mu, eta);
  for (; end - pair >= 2; pair += 2) draw_pairs<ETA, 2>(c, keys, unit, row, pair, t, s, mu, eta);
  for (; pair < end; pair++) draw_pairs<ETA, 1>(c, keys, unit, row, pair, t, s, mu, eta);
}

// The scales of rows [begin, end) at step t; the arrays are indexed by row.
static inline void fill_scales(const Call& c, Long replica, Long begin, Long end, Long t, const StepScales& s) {
  for (Long r = begin; r < end; r++) {
    const float length = c.dt ? c.dt[replica * c.dt_replica + r * c.dt_row + t * c.dt_step] : 1.0f;
    const float root = c.dt ? __builtin_sqrtf(length) : 1.0f;
    s.length[r] = length;
    s.additive[r] = c.additive * root;
    s.slope[r] = c.source >= 2 ? c.slope / root : c.slope;
  }
}

// c[R][V] += rows (a[r][k]) times a panel (p[k][STRIDE vectors], of which V are used): the loop in which the time goes.
template <int R, int V, int STRIDE = V>
INLINE void multiply(Long K, const float* a, Long stride, const float* p, vfloat c[R][V]) {
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

// Calls f.template run<R>() with R = n, for n in [1, ROWS]: tiles of fewer rows at the edge of a slice.
template <int R = ROWS, class F>
INLINE void with_rows(int n, const F& f) {
  if (n == R) f.template run<R>();
  else if constexpr (R > 1) with_rows<R - 1>(n, f);
}
