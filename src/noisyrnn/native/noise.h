// The noise of a step, for rows side by side: what the update is multiplied by, and what is added.
#pragma once
#include <type_traits>
#include <vector>

#include "call.h"
#include "memory.h"
#include "philox.h"

// What one step of a slice of rows multiplies its noise by, and how long it lasts; one entry a row, with a spare before
// and after, since noise is drawn for pairs of rows. The arrays are indexed by row.
struct StepScales {
  float *length, *additive, *slope;

  void fill(const Call& c, Long replica, Long begin, Long end, Long t) const {
    for (Long r = begin; r < end; r++) {
      const float span = c.dt ? c.dt[replica * c.dt_replica + r * c.dt_row + t * c.dt_step] : 1.0f;
      const float root = c.dt ? __builtin_sqrtf(span) : 1.0f;
      length[r] = span;
      additive[r] = c.inside ? c.additive / root : c.additive * root;
      slope[r] = c.source >= 2 ? c.slope / root : c.slope;
    }
  }
};

// Noise of N pairs of rows for one vector of units, side by side so that the processor always has something to do.
template <int N>
static inline void draw_pairs(const Call& c, const Keys& keys, const UnitTable& unit, const RowCounter* rows, Long row,
                              Long pair, const StepScales& s, float* mu, float* eta) {
  vword words[4][N];
  words_of_pairs<N>(keys, unit, rows, words);
#pragma GCC unroll 1
  for (int i = 0; i < N; i++) {
    const Long k = 2 * (pair + i) - c.first_row - row;  // of the pair's first row, among these
    vfloat n[2] = {}, m[2] = {};
    if (c.additive != 0 || c.source == 3) normals_of(words[0][i], words[1][i], n[0], n[1]);
    if (c.source == 1) m[0] = uniform_of(words[2][i]), m[1] = uniform_of(words[3][i]);
    if (c.source == 2) normals_of(words[2][i], words[3][i], m[0], m[1]);
    if (c.source == 3) m[0] = n[0], m[1] = n[1];
#pragma GCC unroll 2
    for (int q = 0; q < 2; q++) {
      store(mu + (k + q) * LANES, (m[q] * s.slope[row + k + q] + c.base) * s.length[row + k + q]);
      store(eta + (k + q) * LANES, n[q] * s.additive[row + k + q]);
    }
  }
}

// The noise of one slice of rows, step by step. `mu` holds the multiplier times the step's length, `eta` what is added:
// a vector a row each, of the vector of units asked for last.
class SliceNoise {
  const Call& c;
  const Long replica, begin;
  const int n;
  const Keys keys;
  Vector<float> scales, memory, drawn;
  std::vector<UnitTable> units;
  std::vector<RowCounter> rows;  // of this step, for each pair
  const StepScales step_scales;

 public:
  float *const mu, *const eta;

  SliceNoise(const Call& call, Long replica, Long begin, Long end)
      : c(call), replica(replica), begin(begin), n((int)(end - begin)), keys(c.seeds[replica]), scales(3 * (n + 2)),
        memory(2 * (n + 3) * LANES),
        step_scales{scales.data() + 1 - begin, scales.data() + n + 3 - begin, scales.data() + 2 * n + 5 - begin},
        mu(memory.data() + LANES), eta(mu + (n + 3) * LANES) {
    if (c.noisy()) {
      const Long tables = c.columns ? (c.columns + LANES - 1) / LANES : c.tiles();
      for (Long j = 0; j < tables; j++) units.emplace_back(keys, (uint32_t)(j * LANES), (uint32_t)c.stream);
      drawn.resize(c.columns ? tables * (n + 3) * LANES : 0);
      rows.resize(((c.first_row + end - 1) >> 1) + 1 - ((c.first_row + begin) >> 1));
    }
    step_scales.fill(c, replica, begin, end, 0);
    fill_lengths();
  }

  // Must come before the vectors of step t.
  void step(Long t) {
    if (c.dt) {
      step_scales.fill(c, replica, begin, begin + n, t);
      if (!c.source) fill_lengths();
    }
    const Long first = (c.first_row + begin) >> 1;
    for (size_t k = 0; k < rows.size(); k++) rows[k] = RowCounter(keys, (uint32_t)(first + k), (uint32_t)(c.first_step + t));
    for (size_t v = 0; c.columns && v < units.size(); v++)
      draw_rows(units[v], mu, drawn.data() + (v * (n + 3) + 1) * LANES);
    if (c.columns) fill_lengths();
  }

  // mu and eta of vector number j of the units.
  void draw(Long j, const float* diffusion) {
    if (c.columns) {
      for (int r = 0; r < n; r++) {
        vfloat sum = {};
        for (Long k = 0; k < c.columns; k++) sum += splat(column(k)[r * LANES]) * load(diffusion + k * LANES);
        store(eta + r * LANES, sum);
      }
    } else if (c.noisy()) {
      draw_rows(units[j], mu, eta);
    }
  }

  // The numbers of one column of a diffusion, LANES apart, times what the step's length makes of the level.
  const float* column(Long k) const { return drawn.data() + (k / LANES * (n + 3) + 1) * LANES + k % LANES; }
  float length(int r) const { return step_scales.length[begin + r]; }

 private:
  // Noise of all rows for one vector of units. The places before the first and behind the last row are written too, since
  // pairs of the path's rows may begin before and end after.
  void draw_rows(const UnitTable& unit, float* to_mu, float* to_eta) const {
    const Long first = (c.first_row + begin) >> 1, pairs = (Long)rows.size();
    Long k = 0;
    const auto draw = [&](auto count) {
      constexpr int N = decltype(count)::value;
      draw_pairs<N>(c, keys, unit, rows.data() + k, begin, first + k, step_scales, to_mu, to_eta);
      k += N;
    };
    while (pairs - k >= 4) draw(std::integral_constant<int, 4>());
    while (pairs - k >= 2) draw(std::integral_constant<int, 2>());
    while (k < pairs) draw(std::integral_constant<int, 1>());
  }
  void fill_lengths() {
    for (int r = 0; r < n; r++) store(mu + r * LANES, splat(length(r)));
  }
};
