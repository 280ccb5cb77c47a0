// Random values of a path written out, for passes that do not draw them in their loop: the same as those of draw_pairs in
// float, and of noise/draws.py in double up to the rounding of log, cos and sin.
#pragma once
#include <cmath>
#include <vector>

#include "call.h"

// What is drawn: `first` gets normals of the first motion, `second` normals or uniform values of the second; either may
// be null. Both are (replicas, steps, rows, units); strides count values, those of rows and units are `units` and 1.
template <class T>
struct Draw {
  const uint64_t* seeds;
  T* first;
  Long first_bytes, first_replica, first_step_stride;
  T* second;
  Long second_bytes, second_replica, second_step_stride;
  Long uniform, replicas, steps, rows, units, first_row, first_step, stream;

  bool fits() const {
    const double plane = (double)rows * units, last_replica = replicas - 1.0, last_step = steps - 1.0;
    if (replicas < 0 || steps < 0 || rows < 0 || units < 1) return false;
    if (replicas == 0 || steps == 0 || rows == 0) return true;
    const auto holds = [&](const T* target, Long bytes, Long replica, Long step) {
      return !target || (replica >= 0 && step >= 0 &&
                         bytes >= (double)sizeof(T) * (last_replica * replica + last_step * step + plane));
    };
    return seeds && holds(first, first_bytes, first_replica, first_step_stride) &&
           holds(second, second_bytes, second_replica, second_step_stride);
  }
};

INLINE void values_of(vword w0, vword w1, bool uniform, float* even, float* odd) {
  vfloat cosine, sine;
  if (uniform) cosine = uniform_of(w0), sine = uniform_of(w1);
  else normals_of(w0, w1, cosine, sine);
  store(even, cosine);
  store(odd, sine);
}
INLINE void values_of(vword w0, vword w1, bool uniform, double* even, double* odd) {
  for (int i = 0; i < LANES; i++) {
    const double u = (w0[i] >> 8) * 0x1p-24, v = (w1[i] >> 8) * 0x1p-24;
    if (uniform) {
      even[i] = u, odd[i] = v;
      continue;
    }
    const double radius = std::sqrt(-2.0 * std::log(u + 0x1p-25)), angle = 6.283185307179586 * v;
    even[i] = radius * std::cos(angle), odd[i] = radius * std::sin(angle);
  }
}

// One motion of N pairs of rows for one vector of units; rows outside the path's part are left out.
template <class T, int N>
static inline void write_pairs(const Draw<T>& d, const vword (*words)[N], bool uniform, Long pair, Long unit, T* plane) {
  alignas(64) T values[2][LANES];
  const Long some = d.units - unit < LANES ? d.units - unit : LANES;
  for (int i = 0; i < N; i++) {
    values_of(words[0][i], words[1][i], uniform, values[0], values[1]);
    const Long row = 2 * (pair + i) - d.first_row;
    for (int q = 0; q < 2; q++)
      if (row + q >= 0 && row + q < d.rows) memcpy(plane + (row + q) * d.units + unit, values[q], some * sizeof(T));
  }
}

template <class T>
static void draw_steps(const Draw<T>& d, Long replica, Long begin, Long end) {
  const Keys keys(d.seeds[replica]);
  for (Long unit = 0; unit < d.units; unit += LANES) {
    const UnitTable table(keys, (uint32_t)unit, (uint32_t)d.stream);
    for (Long t = begin; t < end; t++) {
      const auto some = [&](auto count, Long pair) {
        constexpr int N = decltype(count)::value;
        vword words[4][N];
        RowCounter rows[N];
        for (int i = 0; i < N; i++) rows[i] = RowCounter(keys, (uint32_t)(pair + i), (uint32_t)(d.first_step + t));
        words_of_pairs<N>(keys, table, rows, words);
        if (d.first)
          write_pairs<T, N>(d, words, false, pair, unit, d.first + replica * d.first_replica + t * d.first_step_stride);
        if (d.second)
          write_pairs<T, N>(d, words + 2, d.uniform, pair, unit,
                            d.second + replica * d.second_replica + t * d.second_step_stride);
      };
      Long pair = d.first_row >> 1;
      const Long last = ((d.first_row + d.rows - 1) >> 1) + 1;
      for (; last - pair >= 4; pair += 4) some(std::integral_constant<int, 4>(), pair);
      for (; pair < last; pair++) some(std::integral_constant<int, 1>(), pair);
    }
  }
}
