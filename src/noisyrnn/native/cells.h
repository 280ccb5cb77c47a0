// What each kind of cell makes of its sums, and back: all that the kinds do not share. Rows are passed by value: no store
// can change a copy, so that its fields stay in registers.
//
// Both directions take one vector of units of a slice of rows. Forward: from the sums of products to the new state.
// Backward, with g the gradient of the new state, q = mu g that of the noise-free update and d the step: from g to the
// gradients of the sums over d (so that the gradients of the weights are multiplied by it once, at the end), and to what
// g is for the old state beside the products' part.
#pragma once
#include "activations.h"

struct ForwardRows {
  const Call& c;
  const Long units, groups;
  int n;
  Long some;          // units of this vector that there are
  const float* sums;  // (n, groups)
  const float* constants;  // biases, then d
  const float* old[2];     // parts of the state before, and after
  Long old_row;
  float* next[2];
  Long next_row;
  float* saved;  // planes of H floats, or null
  Long saved_row;
  float* second;  // the plane of `saved` that the state's second part is kept in, or null
  const float *mu, *eta, *zeta;  // a vector a row: the noise outside and inside; mu null in equal, noise-free steps
  const float* lasts;            // a float a row: how long the step lasts

  vfloat sum(int r, int g) const { return load(sums + (r * groups + g) * LANES); }
  vfloat constant(int k) const { return load(constants + k * LANES); }
  vfloat before(int r, int part) const { return load_some(old[part] + r * old_row, some); }
  void after(int r, int part, vfloat v) const {
    store_some(next[part] + r * next_row, v, some);
    if (part == 1 && second) stream_some(second + r * saved_row, v, some);
  }
  void keep(int r, int plane, vfloat v) const {
    if (saved) stream_some(saved + r * saved_row + plane * units, v, some);
  }
};

struct BackwardRows {
  const Call& c;
  const Long units, groups, planes;
  int n;
  Long t, some;
  const Long* lengths;     // of these rows, or null
  const float* constants;  // biases, then d
  float* g;                // (n, parts)
  Long g_row, g_part;
  const float* outer;  // gradient of this step's outputs, or null
  Long outer_row;
  const float* old[2];  // parts of the state before
  Long old_row[2];
  const float* output;  // of this step
  Long output_row;
  const float* saved;
  Long saved_row;
  const float* mu;
  Long mu_row;
  const float* lasts;  // a float a row: how long the step lasts
  float* sums;         // gradients of the sums, (n, groups)
  float* totals;       // biases, then the step: vectors to add to
  float* shifts;       // gradient of what the noise adds outside the activation, a vector a row, or null

  vfloat constant(int k) const { return load(constants + k * LANES); }
  vfloat before(int r, int part) const { return load_some(old[part] + r * old_row[part], some); }
  vfloat kept(int r, int plane) const { return load_some(saved + r * saved_row + plane * units, some); }
  vfloat multiplier(int r) const { return load_some(mu + r * mu_row, some); }
  float* at(int r, int part) const { return g + r * g_row + part * g_part; }
};

// The new state is old + mu * update(r) + eta.
template <class F>
INLINE void update_rows(const ForwardRows k, const F& update) {
  if (k.mu)
    for (int r = 0; r < k.n; r++)
      k.after(r, 0, k.before(r, 0) + load(k.mu + r * LANES) * update(r) + load(k.eta + r * LANES));
  else
    for (int r = 0; r < k.n; r++) k.after(r, 0, k.before(r, 0) + update(r));
}
// The same for a new state value(r) that the old one has no part in but through noise.
template <class F>
INLINE void replace_rows(const ForwardRows k, const F& value) {
  if (k.mu)
    for (int r = 0; r < k.n; r++) {
      const vfloat old = k.before(r, 0);
      k.after(r, 0, old + load(k.mu + r * LANES) * (value(r) - old) + load(k.eta + r * LANES));
    }
  else
    for (int r = 0; r < k.n; r++) k.after(r, 0, value(r));
}

// Calls step(r, g) for each row that is not past its end: with g the gradient of the new state's parts, changed to that
// of the old state. `PARTS` is their number.
template <int PARTS, class F>
INLINE void rows_back(const BackwardRows k, const F& step) {
  const Long G = k.groups, plane = k.c.rows * k.units, before = plane * k.planes;
  for (int r = 0; r < k.n; r++) {
    if (k.t > 1) {  // what the step before will read
      for (Long p = 0; p < k.planes; p++) __builtin_prefetch(k.saved - before + r * k.saved_row + p * k.units, 0, 2);
      __builtin_prefetch(k.old[0] - plane + r * k.old_row[0], 0, 2);
    }
    if (k.lengths && k.lengths[r] <= k.t) {
      memset(k.sums + r * G * LANES, 0, G * LANES * sizeof(float));
      if (k.shifts) store(k.shifts + r * LANES, (vfloat){});
      continue;
    }
    vfloat g[PARTS];
#pragma GCC unroll 2
    for (int p = 0; p < PARTS; p++) g[p] = load(k.at(r, p));
    if (k.outer) g[0] += load_some(k.outer + r * k.outer_row, k.some);
    step(r, g);
#pragma GCC unroll 2
    for (int p = 0; p < PARTS; p++) store(k.at(r, p), g[p]);
  }
}
INLINE void add_to(float* at, vfloat v) { store(at, load(at) + v); }
INLINE void give(const BackwardRows k, int r, int g, vfloat v) {
  store(k.sums + (r * k.groups + g) * LANES, v);
}
INLINE void give_shift(const BackwardRows k, int r, vfloat g) {
  if (k.shifts) store(k.shifts + r * LANES, g);
}

// DRIFT, PLAIN and RATE: d (A h + a(z)), d a(z), d (a(z) - h) with z = W h + U x + b, and the noise inside.
template <Long KIND, class A>
INLINE void drift_forward(const ForwardRows k) {
  const vfloat b = k.constant(0), d = k.constant(1);
  const A a = {};
  update_rows(k, [&](int r) INLINE_LAMBDA {
    const vfloat u = a.value(k.sum(r, KIND == DRIFT ? 1 : 0) + b + load(k.zeta + r * LANES));
    k.keep(r, 0, u);
    return d * (KIND == DRIFT ? k.sum(r, 0) + u : KIND == RATE ? u - k.before(r, 0) : u);
  });
}
template <Long KIND, class A>
INLINE void drift_backward(const BackwardRows k) {
  const vfloat d = k.constant(1);
  vfloat sum_b = {}, sum_d = {};
  rows_back<1>(k, [&](int r, vfloat* g) INLINE_LAMBDA {
    give_shift(k, r, g[0]);
    const vfloat q = g[0] * k.multiplier(r), u = k.kept(r, 0), w = A::times_slope(q, u);
    if (KIND == DRIFT) give(k, r, 0, q);
    give(k, r, KIND == DRIFT ? 1 : 0, w);
    sum_b += w;
    sum_d += q * (KIND == RATE ? u - k.before(r, 0) : u);
    if (KIND == RATE) g[0] -= d * q;
  });
  add_to(k.totals, sum_b);
  add_to(k.totals + LANES, sum_d);
}

// CURRENT: v + d (W a(v) + U x + b - v); part 0 is a(v), part 1 is v.
template <class A>
INLINE void current_forward(const ForwardRows k) {
  const vfloat b = k.constant(0), d = k.constant(1);
  const A a = {};
  for (int r = 0; r < k.n; r++) {
    const vfloat old = k.before(r, 1), change = k.sum(r, 0) + b - old;
    const vfloat v = k.mu ? old + load(k.mu + r * LANES) * (d * change) + load(k.eta + r * LANES) : old + d * change;
    k.keep(r, 0, change);
    k.after(r, 1, v);
    k.after(r, 0, a.value(v));
  }
}
template <class A>
INLINE void current_backward(const BackwardRows k) {  // the products' part of g is a gradient of a(v)
  const vfloat d = k.constant(1);
  vfloat sum_b = {}, sum_d = {};
  rows_back<2>(k, [&](int r, vfloat* g) INLINE_LAMBDA {
    g[1] += A::times_slope(g[0], load_some(k.output + r * k.output_row, k.some));
    g[0] = (vfloat){};
    give_shift(k, r, g[1]);
    const vfloat q = g[1] * k.multiplier(r);
    give(k, r, 0, q);
    sum_b += q;
    sum_d += q * k.kept(r, 0);
    g[1] -= d * q;
  });
  add_to(k.totals, sum_b);
  add_to(k.totals + LANES, sum_d);
}

// OSCILLATOR: z += d (tanh(W (y, z) + U x + b) - stiffness y - friction z), then y += d z; part 0 is y, part 1 is z.
INLINE void oscillator_forward(const ForwardRows k) {
  const vfloat b = k.constant(0), d = k.constant(1);
  const float stiffness = k.c.first_coefficient, friction = k.c.second_coefficient;
  const TanhOf tanh_of = {};
  update_rows(k, [&](int r) INLINE_LAMBDA {
    const vfloat u = tanh_of(k.sum(r, 0) + b + load(k.zeta + r * LANES)), y = k.before(r, 0), z = k.before(r, 1);
    const vfloat force = u - stiffness * y - friction * z, after = z + d * (k.lasts[r] * force);
    k.keep(r, 0, u);
    k.after(r, 1, after);
    return d * after;
  });
}
INLINE void oscillator_backward(const BackwardRows k) {
  const vfloat d = k.constant(1);
  const float stiffness = k.c.first_coefficient, friction = k.c.second_coefficient;
  vfloat sum_b = {}, sum_d = {};
  rows_back<2>(k, [&](int r, vfloat* g) INLINE_LAMBDA {
    give_shift(k, r, g[0]);
    const vfloat u = k.kept(r, 0), moved = g[0] * k.multiplier(r);
    g[1] += d * moved;
    const vfloat pushed = g[1] * k.lasts[r], w = pushed - pushed * u * u;
    const vfloat force = u - stiffness * k.before(r, 0) - friction * k.before(r, 1);
    sum_b += w;
    sum_d += moved * k.kept(r, 1) + pushed * force;
    give(k, r, 0, w);
    const vfloat back = d * pushed;
    g[0] -= stiffness * back;
    g[1] -= friction * back;
  });
  add_to(k.totals, sum_b);
  add_to(k.totals + LANES, sum_d);
}

// MODRELU: sign(z) relu(|z| + b) with z = W h + U x.
INLINE void modrelu_forward(const ForwardRows k) {
  const vfloat b = k.constant(0);
  replace_rows(k, [&](int r) INLINE_LAMBDA {
    const vfloat z = k.sum(r, 0) + load(k.zeta + r * LANES);
    k.keep(r, 0, z);
    const vfloat size = larger(size_of(z) + b, 0.0f);
    return z == 0.0f ? (vfloat){} : (vfloat)((vword)size | ((vword)z & 0x80000000u));
  });
}
INLINE void modrelu_backward(const BackwardRows k) {
  const vfloat b = k.constant(0);
  vfloat sum_b = {};
  rows_back<1>(k, [&](int r, vfloat* g) INLINE_LAMBDA {
    give_shift(k, r, g[0]);
    const vfloat q = g[0] * k.multiplier(r), z = k.kept(r, 0);
    const vfloat w = (size_of(z) + b > 0.0f) & (z != 0.0f) ? q : (vfloat){};
    give(k, r, 0, w);
    sum_b += z < 0.0f ? -w : w;
    g[0] -= q;
  });
  add_to(k.totals, sum_b);
}

// GRU: n + z (h - n) with n = tanh(n_x + r n_h). Sums: n_h, r, z, n_x; biases and saved: r, z, n_x (saved n), n_h.
INLINE void gru_forward(const ForwardRows k) {
  const vfloat b_r = k.constant(0), b_z = k.constant(1), b_x = k.constant(2), b_h = k.constant(3);
  const TanhOf tanh_of = {};
  replace_rows(k, [&](int r) INLINE_LAMBDA {
    const vfloat hidden = k.sum(r, 0) + b_h, reset = sigmoid_of(k.sum(r, 1) + b_r), z = sigmoid_of(k.sum(r, 2) + b_z);
    const vfloat n = tanh_of(k.sum(r, 3) + b_x + reset * hidden);
    k.keep(r, 0, reset), k.keep(r, 1, z), k.keep(r, 2, n), k.keep(r, 3, hidden);
    return n + z * (k.before(r, 0) - n);
  });
}
INLINE void gru_backward(const BackwardRows k) {
  vfloat sum[4] = {};
  rows_back<1>(k, [&](int r, vfloat* g) INLINE_LAMBDA {
    give_shift(k, r, g[0]);
    const vfloat reset = k.kept(r, 0), z = k.kept(r, 1), n = k.kept(r, 2), hidden = k.kept(r, 3);
    const vfloat q = g[0] * k.multiplier(r), rest = q - q * z;
    const vfloat of_n = rest - rest * n * n, of_z = rest * z * (k.before(r, 0) - n);
    const vfloat of_hidden = of_n * reset, of_r = of_hidden * hidden * (1.0f - reset);
    give(k, r, 0, of_hidden), give(k, r, 1, of_r), give(k, r, 2, of_z), give(k, r, 3, of_n);
    sum[0] += of_r, sum[1] += of_z, sum[2] += of_n, sum[3] += of_hidden;
    g[0] -= rest;
  });
  for (int i = 0; i < 4; i++) add_to(k.totals + i * LANES, sum[i]);
}

// LSTM: c = f c + i g, h = o tanh(c); part 0 is h, part 1 is c. Sums, biases and saved: i, f, g, o; saved last: c.
INLINE void lstm_forward(const ForwardRows k) {
  const vfloat b_i = k.constant(0), b_f = k.constant(1), b_g = k.constant(2), b_o = k.constant(3);
  const TanhOf tanh_of = {};
  replace_rows(k, [&](int r) INLINE_LAMBDA {
    const vfloat i = sigmoid_of(k.sum(r, 0) + b_i), f = sigmoid_of(k.sum(r, 1) + b_f);
    const vfloat g = tanh_of(k.sum(r, 2) + b_g), o = sigmoid_of(k.sum(r, 3) + b_o);
    const vfloat c = f * k.before(r, 1) + i * g;
    k.keep(r, 0, i), k.keep(r, 1, f), k.keep(r, 2, g), k.keep(r, 3, o);
    k.after(r, 1, c);
    return o * tanh_of(c);
  });
}
INLINE void lstm_backward(const BackwardRows k) {
  vfloat sum[4] = {};
  const TanhOf tanh_of = {};
  rows_back<2>(k, [&](int r, vfloat* g) INLINE_LAMBDA {
    give_shift(k, r, g[0]);
    const vfloat i = k.kept(r, 0), f = k.kept(r, 1), c_new = k.kept(r, 2), o = k.kept(r, 3);
    const vfloat q = g[0] * k.multiplier(r), bent = tanh_of(k.kept(r, 4)), through = q * o;
    g[1] += through - through * bent * bent;
    const vfloat of_i = g[1] * c_new * i * (1.0f - i), of_f = g[1] * k.before(r, 1) * f * (1.0f - f);
    const vfloat to_g = g[1] * i, of_g = to_g - to_g * c_new * c_new, of_o = through * bent * (1.0f - o);
    give(k, r, 0, of_i), give(k, r, 1, of_f), give(k, r, 2, of_g), give(k, r, 3, of_o);
    sum[0] += of_i, sum[1] += of_f, sum[2] += of_g, sum[3] += of_o;
    g[0] -= q;
    g[1] *= f;
  });
  for (int i = 0; i < 4; i++) add_to(k.totals + i * LANES, sum[i]);
}

static void cell_forward(const ForwardRows& k) {
  switch (k.c.kind) {
    case DRIFT: return with_activation(k.c.activation, [&](auto a) { drift_forward<DRIFT, decltype(a)>(k); });
    case PLAIN: return with_activation(k.c.activation, [&](auto a) { drift_forward<PLAIN, decltype(a)>(k); });
    case RATE: return with_activation(k.c.activation, [&](auto a) { drift_forward<RATE, decltype(a)>(k); });
    case CURRENT: return with_activation(k.c.activation, [&](auto a) { current_forward<decltype(a)>(k); });
    case OSCILLATOR: return oscillator_forward(k);
    case MODRELU: return modrelu_forward(k);
    case GRU: return gru_forward(k);
    default: return lstm_forward(k);
  }
}
static void cell_backward(const BackwardRows& k) {
  switch (k.c.kind) {
    case DRIFT: return with_activation(k.c.activation, [&](auto a) { drift_backward<DRIFT, decltype(a)>(k); });
    case PLAIN: return with_activation(k.c.activation, [&](auto a) { drift_backward<PLAIN, decltype(a)>(k); });
    case RATE: return with_activation(k.c.activation, [&](auto a) { drift_backward<RATE, decltype(a)>(k); });
    case CURRENT: return with_activation(k.c.activation, [&](auto a) { current_backward<decltype(a)>(k); });
    case OSCILLATOR: return oscillator_backward(k);
    case MODRELU: return modrelu_backward(k);
    case GRU: return gru_backward(k);
    default: return lstm_backward(k);
  }
}

// a(v) of a row of currents.
static void activate_row(Long activation, const float* from, float* to, Long n) {
  with_activation(activation, [&](auto a) {
    for (Long i = 0; i < n; i += LANES) store_some(to + i, a.value(load_some(from + i, n - i)), n - i);
  });
}
// g of v from that of a(v) and of v.
static void activate_row_back(Long activation, const float* value, const float* of_value, const float* of_v, float* to,
                              Long n) {
  with_activation(activation, [&](auto a) {
    for (Long i = 0; i < n; i += LANES) {
      const vfloat slope = decltype(a)::times_slope(load_some(of_value + i, n - i), load_some(value + i, n - i));
      store_some(to + i, load_some(of_v + i, n - i) + slope, n - i);
    }
  });
}
