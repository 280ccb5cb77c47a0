// The forward pass of one slice of rows: all steps, with no word to other threads.
#pragma once
#include <vector>

#include "cells.h"
#include "half.h"
#include "noise.h"
#include "products.h"

INLINE const float* constants_of(const Call& c, const float* panel, Long side, Long j) {
  return panel + (state_panel(c) + input_panel(c)) * side + j * constants_panel(c);
}

template <class Sums>
static void forward_slice(const Call& c, Long replica, Long begin, Long end) {
  const Shape& shape = c.shape();
  const Long H = c.units, TILES = c.tiles(), n = end - begin, plane = c.rows * H, parts = shape.parts;
  const Long G = shape.groups, kept = replica * c.steps * plane + begin * H, state = c.state();
  const Long saved_row = c.planes() * H, apart = Sums::padded(n) * G * LANES;
  SliceNoise noise(c, replica, begin, end);
  Sums products(c, n);
  Vector<float> first(n * H * parts), turn(n * H * 2 * parts), sums(products.together(0) * apart), zeros(n * LANES);
  const bool scaled = c.scaled();
  Vector<float> lasts(n, 1.0f);
  const float* now[2] = {first.data(), parts == 2 ? first.data() + n * H : nullptr};
  const Long row[2] = {H, H};
  for (Long r = 0; r < n; r++) {
    const float* initial = c.initial + replica * c.initial_replica + (begin + r) * c.initial_row;
    if (c.kind == CURRENT) activate_row(c.activation, initial, &first[r * H], H);
    else memcpy(&first[r * H], initial, H * sizeof(float));
    if (parts == 2) memcpy(&first[(n + r) * H], initial + (state - H), H * sizeof(float));
    if (c.steps == 0) memcpy(c.last + (replica * c.rows + begin + r) * state, initial, state * sizeof(float));
  }

  for (Long t = 0; t < c.steps; t++) {
    // A second part stays in the nearest cache, and a copy is streamed to `saved`: writing it there alone would first fetch
    // lines that nothing else needs.
    float* turned = turn.data() + (t & 1) * n * H * parts;
    float* next[2] = {c.states ? c.states + kept + t * plane : turned, parts == 2 ? turned + n * H : nullptr};
    float* saved = c.saved ? c.saved + (kept + t * plane) * c.planes() : nullptr;
    float* second = saved && parts == 2 ? saved + (shape.saved - 1) * H : nullptr;
    const float* x = c.x + replica * c.x_replica + begin * c.x_row + t * c.x_step;
    if (scaled) noise.step(t);
    products.begin(now, row, x);
    for (Long r = 0; scaled && c.dt && r < n; r++) lasts[r] = noise.length((int)r);
    const float* packed = c.packed + replica * c.packed_replica;
    for (Long from = 0, to; from < TILES; from = to) {
      to = from + products.together(from);
      products.add(from, to - from, packed, sums.data(), apart);
      for (Long j = from; j < to; j++) {
        const Long block = G == 1 ? j & ~1ll : j, unit = j * LANES;
        const float* constants = constants_of(c, packed + block * panel_size(c), side_by_side(c, block), j - block);
        if (scaled) noise.draw(j, constants + (shape.biases + 1) * LANES);
        for (Long r = 0; saved && c.source && r < n; r++)
          stream_some(saved + r * saved_row + shape.saved * H + unit, load(noise.mu + r * LANES), H - unit);
        const ForwardRows rows = {c, H, G, (int)n, H - unit, sums.data() + (j - from) * apart, constants,
                                  {now[0] + unit, now[1] ? now[1] + unit : nullptr}, H,
                                  {next[0] + unit, next[1] ? next[1] + unit : nullptr}, H,
                                  saved ? saved + unit : nullptr, saved_row, second ? second + unit : nullptr,
                                  scaled ? noise.mu : nullptr, c.inside ? zeros.data() : noise.eta,
                                  c.inside ? noise.eta : zeros.data(), lasts.data()};
        cell_forward(rows);
      }
    }
    for (Long r = 0; r < n; r++) {
      const Long length = c.lengths ? c.lengths[replica * c.rows + begin + r] : c.steps;
      if (length == t + 1) {
        float* last = c.last + (replica * c.rows + begin + r) * state;
        if (c.kind != CURRENT) memcpy(last, next[0] + r * H, H * sizeof(float));
        if (parts == 2) memcpy(last + (state - H), next[1] + r * H, H * sizeof(float));
      }
      if (length > t) continue;
      for (Long p = 0; p < parts; p++) memset(next[p] + r * H, 0, H * sizeof(float));  // what a padded step made is dropped
      if (saved) memset(saved + r * saved_row, 0, saved_row * sizeof(float));
    }
    for (int p = 0; p < 2; p++) now[p] = next[p];
  }
  stream_end();
}
