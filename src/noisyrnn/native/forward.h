// The forward pass of one slice of rows: all steps, with no word to other threads.
#pragma once
#include <vector>

#include "call.h"

// One tile: R rows by one vector of units.
template <int G, bool SCALED>
struct ForwardTile {
  const Call& c;
  const float *panel, *x, *h;  // x: of the first row at this step; h: (R, units)
  Long unit;
  float *next, *tanhs;
  const float *mu, *eta;

  template <int R>
  INLINE_MEMBER void run() const {
    const float* extra = panel + c.units * G * LANES;
    vfloat sum[R][G] = {};
    const vfloat b = load(extra + c.inputs * LANES), d = load(extra + (c.inputs + 1) * LANES);
    const Long H = c.units, some = H - unit;
    multiply<R, G>(H, h, H, panel, sum);
    for (Long i = 0; i < c.inputs; i++) {  // last, since it is often large: each addition to it rounds at its size
      const vfloat u = load(extra + i * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) sum[r][G - 1] += splat(x[r * c.x_row + i]) * u;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vfloat u = tanh_of(sum[r][G - 1] + b);
      if (tanhs) store_some(tanhs + r * H, u, some);
      const vfloat drift = d * (G == 2 ? sum[r][0] + u : u);
      const vfloat old = load_some(h + r * H + unit, some);
      if (SCALED) store_some(next + r * H, old + load(mu + r * LANES) * drift + load(eta + r * LANES), some);
      else store_some(next + r * H, old + drift, some);
    }
  }
};

template <int G, bool SCALED>
static void forward_slice(const Call& c, Long replica, Long begin, Long end) {
  const Long H = c.units, TILES = c.tiles(), n = end - begin, plane = c.rows * H;
  const Long kept = replica * c.steps * plane + begin * H;
  std::vector<float> first(n * H), turn(c.states ? 0 : 2 * n * H), scales(3 * (n + 2));
  std::vector<UnitTable> units;
  const Keys keys(c.seeds[replica]);
  const StepScales s = {scales.data() + 1 - begin, scales.data() + n + 3 - begin, scales.data() + 2 * n + 5 - begin};
  alignas(64) float mu[(ROWS + 3) * LANES], eta[(ROWS + 3) * LANES];
  if (c.noisy())
    for (Long j = 0; j < TILES; j++) units.emplace_back(keys, (uint32_t)(j * LANES), (uint32_t)c.stream);
  for (Long r = 0; r < n; r++)
    memcpy(&first[r * H], c.initial + replica * c.initial_replica + (begin + r) * c.initial_row, H * sizeof(float));
  if (SCALED) fill_scales(c, replica, begin, end, 0, s);

  const float* now = first.data();
  for (Long t = 0; t < c.steps; t++) {
    float* next = c.states ? c.states + kept + t * plane : turn.data() + (t & 1) * n * H;
    float* tanhs = c.tanhs ? c.tanhs + kept + t * plane : nullptr;
    const float* x = c.x + replica * c.x_replica + begin * c.x_row + t * c.x_step;
    if (SCALED && c.dt && t > 0) fill_scales(c, replica, begin, end, t, s);
    for (Long j = 0; j < TILES; j++) {
      const float* panel = c.packed + replica * c.packed_replica + j * panel_size(c);
      for (Long r = 0; r < n; r += ROWS) {
        const int count = (int)(n - r < ROWS ? n - r : ROWS);
        const Long at = r * H + j * LANES;
        for (int k = 0; k < count; k++) {  // owned by the time the products are done, so that no store waits for memory
          __builtin_prefetch(next + at + k * H, 1);
          if (tanhs) __builtin_prefetch(tanhs + at + k * H, 1);
        }
        if (SCALED && c.noisy()) draw_noise<true>(c, keys, units[j], begin + r, count, t, s, mu, eta);
        for (int k = 0; SCALED && !c.noisy() && k < count; k++) {
          store(mu + (k + 1) * LANES, splat(s.length[begin + r + k]));
          store(eta + (k + 1) * LANES, (vfloat){});
        }
        with_rows(count, ForwardTile<G, SCALED>{c, panel, x + r * c.x_row, now + r * H, j * LANES, next + at,
                                                tanhs ? tanhs + at : nullptr, mu + LANES, eta + LANES});
      }
    }
    for (Long r = 0; c.lengths && r < n; r++) {  // what a padded step computed is dropped: outputs are zero there
      const Long length = c.lengths[replica * c.rows + begin + r];
      if (length == t + 1) memcpy(c.last + (replica * c.rows + begin + r) * H, next + r * H, H * sizeof(float));
      if (length > t) continue;
      memset(next + r * H, 0, H * sizeof(float));
      if (tanhs) memset(tanhs + r * H, 0, H * sizeof(float));
    }
    now = next;
  }
  for (Long r = 0; !c.lengths && r < n; r++)
    memcpy(c.last + (replica * c.rows + begin + r) * H, now + r * H, H * sizeof(float));
}
