// Matrices turned about, a square of LANES by LANES at a time: in registers, so that every line of memory is met once.
#pragma once
#include <utility>

#include "call.h"

// Every other float from `a`, between them those of `b`, both from entry FROM on.
template <int FROM, int... I>
INLINE vfloat zip(vfloat a, vfloat b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (FROM + I / 2 + I % 2 * LANES)...);
#else
  return __builtin_shuffle(a, b, (vint){(FROM + I / 2 + I % 2 * LANES)...});
#endif
}

// to[j * to_row + i] = from[i * from_row + j] for i, j < LANES. Each round zips the rows of the two halves.
INLINE void transpose_square(const float* from, Long from_row, float* to, Long to_row) {
  const std::make_integer_sequence<int, LANES> entries;
  vfloat rows[LANES], zipped[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++) rows[i] = load(from + i * from_row);
#pragma GCC unroll 4
  for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      zipped[2 * i] = zip<0>(rows[i], rows[i + LANES / 2], entries);
      zipped[2 * i + 1] = zip<LANES / 2>(rows[i], rows[i + LANES / 2], entries);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) rows[i] = zipped[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++) store(to + i * to_row, rows[i]);
}

// to (columns, rows) = from (rows, columns) transposed; `from_row` and `to_row` floats lie between their rows.
static inline void transpose(const float* from, Long from_row, Long rows, Long columns, float* to, Long to_row) {
  for (Long i = 0; i < rows; i += LANES)
    for (Long j = 0; j < columns; j += LANES) {
      const float* here = from + i * from_row + j;
      float* there = to + j * to_row + i;
      if (i + LANES <= rows && j + LANES <= columns) {
        transpose_square(here, from_row, there, to_row);
        continue;
      }
      for (Long x = 0; x < LANES && i + x < rows; x++)
        for (Long y = 0; y < LANES && j + y < columns; y++) there[y * to_row + x] = here[x * from_row + y];
    }
}
