// m + c mᵀ: recurrent matrices of prescribed skew-symmetry, and the gradient with respect to the free ones.
#pragma once
#include "transpose.h"

constexpr Long TILE = 32;

// Calls combine(place, count, across) for each piece of a row: `count` floats at `place`, and those of mᵀ there.
template <class F>
static void with_transpose(const float* m, Long n, const F& combine) {
  alignas(64) float across[TILE * TILE];
  for (Long i0 = 0; i0 < n; i0 += TILE) {
    const Long rows = n - i0 < TILE ? n - i0 : TILE;
    for (Long j0 = 0; j0 < n; j0 += TILE) {
      const Long columns = n - j0 < TILE ? n - j0 : TILE;
      transpose(m + j0 * n + i0, n, columns, rows, across, TILE);
      for (Long i = 0; i < rows; i++) combine((i0 + i) * n + j0, columns, across + i * TILE);
    }
  }
}

// One rounding where the processor has one, as torch has it: the same bits as the definition.
static inline float plus_product(float a, float c, float b) {
#ifdef __FMA__
  return __builtin_fmaf(c, b, a);
#else
  return a + c * b;
#endif
}

static void structure(const float* m, float* out, Long n, float c, float damping) {
  with_transpose(m, n, [=](Long at, Long count, const float* across) {
    for (Long j = 0; j < count; j++) out[at + j] = plus_product(m[at + j], c, across[j]);
  });
  for (Long i = 0; i < n; i++) out[i * n + i] -= damping;
}

// Two roundings, as autograd has them.
static void structure_backward(const float* g, float* out, Long n, float c) {
  with_transpose(g, n, [=](Long at, Long count, const float* across) {
    float product[TILE];
    for (Long j = 0; j < count; j++) product[j] = c * across[j];
    __asm__ volatile("" : : "r"(product) : "memory");  // or the compiler makes one rounding of it
    for (Long j = 0; j < count; j++) out[at + j] = g[at + j] + product[j];
  });
}
