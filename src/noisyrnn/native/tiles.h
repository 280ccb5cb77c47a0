// Tiles of products: the loops in which the time goes. The same for all kinds of cells.
#pragma once
#include "call.h"

// Rows of a tile of V vectors: as many as the registers hold.
constexpr int rows_of(int V) {
#if defined(__AVX512F__)
  return V <= 3 ? 8 : 6;
#elif defined(__AVX2__) && defined(__FMA__)
  return V <= 2 ? 6 : V == 3 ? 4 : 2;
#else
  return V <= 2 ? 4 : V == 3 ? 3 : 2;
#endif
}

// c[R][N V] += rows (a[r][k]) times N panels (p[k][STRIDE vectors], of which V are used), `apart` floats from one another.
template <int R, int V, int STRIDE = V, int N = 1>
INLINE void multiply(Long K, const float* a, Long stride, const float* p, vfloat c[R][N * V], Long apart = 0) {
#pragma GCC unroll 4  // fewer instructions for the loop itself
  for (Long k = 0; k < K; k++, p += STRIDE * LANES) {
    vfloat w[N * V];
#pragma GCC unroll 8
    for (int v = 0; v < N * V; v++) w[v] = load(p + v / V * apart + v % V * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vfloat s = splat(a[r * stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < N * V; v++) c[r][v] += s * w[v];
    }
  }
}

// Calls f.template run<R>() with R = n, for n in [1, MOST]: tiles of fewer rows at the edge of a slice.
template <int MOST, class F>
INLINE void with_rows(Long n, const F& f) {
  if (n == MOST) f.template run<MOST>();
  else if constexpr (MOST > 1) with_rows<MOST - 1>(n, f);
}

// Calls f(first, count) for pieces of at most MOST of n rows.
template <int MOST, class F>
INLINE void in_pieces(Long n, const F& f) {
  for (Long r = 0; r < n; r += MOST) f(r, n - r < MOST ? n - r : (Long)MOST);
}

// The sums of R rows for J vectors of units in each of N panels: G vectors a row, of which the first W are of products
// with the state, and those from U on of products with the inputs, at sums + [unit vector * apart + row * G * LANES].
template <int G, int W, int U, int J, int N>
struct SumTile {
  static constexpr int V = J * W, ALL = N * V, LONGEST = 128;
  static_assert(J == 1 || G == 1, "vectors of units side by side are for a single sum");
  const Call& c;
  const float *rows[2], *panel, *x;  // of the first row: the sources of the state, and the inputs at this step
  Long panels_apart, strides[2];
  float* sums;
  Long apart;

  template <int R>
  INLINE_MEMBER void run() const {
    const Long H = c.units, I = c.inputs, sources = c.shape().sources;
    constexpr int INPUTS = J * (G - U);
    vfloat sum[R][ALL] = {};
    const Long pieces = (H + LONGEST - 1) / LONGEST, piece = (H + pieces - 1) / pieces;
    for (Long p = 0; p < sources; p++)
      for (Long k = 0; k < H; k += piece) {  // a sum of sums where there are many: shorter chains of roundings
        vfloat part[R][ALL] = {};
        multiply<R, V, V, N>(H - k < piece ? H - k : piece, rows[p] + k, strides[p], panel + (p * H + k) * V * LANES, part,
                             panels_apart);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
          for (int v = 0; v < ALL; v++) sum[r][v] += part[r][v];
      }
    const float* u = panel + sources * H * V * LANES;
    for (Long i = 0; i < I; i++)  // last, since it is often large: each addition to it rounds at its size
#pragma GCC unroll 8
      for (int v = 0; v < ALL; v++) {
        if (v % V < U) continue;
        const vfloat w = load(u + v / V * panels_apart + (i * INPUTS + v % V - U) * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) sum[r][v] += splat(x[r * c.x_row + i]) * w;
      }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < ALL; v++) store(sums + v / W * apart + (r * G + v % W) * LANES, sum[r][v]);
    if constexpr (G > W)  // of the inputs alone
      for (int n = 0; n < N; n++) {
        vfloat rest[R] = {};
        for (Long i = 0; i < I; i++) {
          const vfloat w = load(u + n * panels_apart + (i * INPUTS + INPUTS - 1) * LANES);
#pragma GCC unroll 16
          for (int r = 0; r < R; r++) rest[r] += splat(x[r * c.x_row + i]) * w;
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) store(sums + n * apart + (r * G + G - 1) * LANES, rest[r]);
      }
  }
};

// g (R, V vectors) += gradients of sums times transposed weights, for some vectors of units.
template <int V>
struct StateTile {
  const float *sums, *panel;  // sums: (tiles, rows, G vectors), of which the first `K` floats count
  Long K, row_stride, tiles, tile_stride, width;
  float* g;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat sum[R][V] = {};  // apart from g, which is larger: each addition to it would round at its size
    for (Long j = 0; j < tiles; j++)
      multiply<R, V, 2>(K, sums + j * tile_stride, row_stride, panel + j * K * 2 * LANES, sum);
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
struct InputTile {
  const float *sums, *panel;
  Long K, row_stride, tiles, tile_stride, channels;
  float* d_x;
  Long d_x_row;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat total[R] = {};
    for (Long j = 0; j < tiles; j++) {
      vfloat sum[R][1] = {};  // a sum of sums: shorter chains of roundings
      multiply<R, 1>(K, sums + j * tile_stride, row_stride, panel + j * K * LANES, sum);
      for (int r = 0; r < R; r++) total[r] += sum[r][0];
    }
    for (int r = 0; r < R; r++) store_some(d_x + r * d_x_row, total[r], channels);
  }
};

// totals (R entries, V vectors of sums) += entries (K, EVERY)ᵀ times gradients (K rows of `row_stride` floats). The
// vectors are those of J vectors of units, `apart` and `totals_apart` floats from one another.
template <int V, int J, int EVERY>
struct WeightTile {
  Long K;
  const float *entries, *sums;
  Long row_stride, apart;
  float* totals;
  Long totals_apart;

  template <int R>
  INLINE_MEMBER void run() const {
    vfloat sum[R][J * V] = {};
    const float* p = sums;
#pragma GCC unroll 4
    for (Long k = 0; k < K; k++, p += row_stride) {
      vfloat w[J * V];
#pragma GCC unroll 4
      for (int v = 0; v < J * V; v++) w[v] = load(p + v / V * apart + v % V * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vfloat s = splat(entries[k * EVERY + r]);
#pragma GCC unroll 4
        for (int v = 0; v < J * V; v++) sum[r][v] += s * w[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < J * V; v++) {
        float* at = totals + v / V * totals_apart + (r * V + v % V) * LANES;
        store(at, load(at) + sum[r][v]);
      }
  }
};
