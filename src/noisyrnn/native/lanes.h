// Vectors of floats as wide as the machine's, and the few functions of them that the loop needs.
//
// One width a build, by the compiler's flags: AVX-512 (16 floats), AVX2 with FMA (8), anything else (4, through GCC's
// vector extensions: SSE2, NEON).
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__) && defined(__FMA__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vfloat __attribute__((vector_size(LANES * 4)));
typedef float vfloat_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t vint __attribute__((vector_size(LANES * 4)));
typedef uint32_t vword __attribute__((vector_size(LANES * 4)));
typedef uint64_t vwide __attribute__((vector_size(LANES * 4)));  // half as many lanes, each with room for a product

// While one of these lives, this thread's results below the smallest normal number are zero: gradients of long sequences
// vanish, and a processor takes a hundred times as long for numbers in between.
class FlushDenormals {
#if defined(__SSE2__)
  const unsigned before = _mm_getcsr();

 public:
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  uint64_t before;

 public:
  FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1ull << 24)));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

INLINE vfloat load(const float* p) { return *(const vfloat_any*)p; }
INLINE void store(float* p, vfloat v) { *(vfloat_any*)p = v; }
INLINE vfloat splat(float s) { return s - (vfloat){}; }  // 0 + s would be an addition, since it changes -0

// The first n floats, and zeros; a whole vector for n >= LANES. Nothing past them is touched.
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
INLINE __m256i first_lanes(int64_t n) {
  static const int32_t mask[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i*)(mask + LANES - n));
}
#endif
INLINE vfloat load_some(const float* p, int64_t n) {
  if (n >= LANES) return load(p);
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(__AVX2__) && defined(__FMA__)
  return (vfloat)_mm256_maskload_ps(p, first_lanes(n));
#else
  float buffer[LANES] = {};
  for (int64_t i = 0; i < n; i++) buffer[i] = p[i];
  return load(buffer);
#endif
}
INLINE void store_some(float* p, vfloat v, int64_t n) {
  if (n >= LANES) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif defined(__AVX2__) && defined(__FMA__)
  _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
#else
  float buffer[LANES];
  store(buffer, v);
  for (int64_t i = 0; i < n; i++) p[i] = buffer[i];
#endif
}


// The same for memory that is not read again soon: without fetching its lines first.
INLINE void stream_some(float* p, vfloat v, int64_t n) {
#if defined(__AVX512F__)
  if (n >= LANES && ((uintptr_t)p & 63) == 0) return _mm512_stream_ps(p, (__m512)v);
#endif
  store_some(p, v, n);
}
INLINE void stream_end() {  // what was streamed is there for all threads
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Square root and quotient, where the processor's own instructions take longer than an estimate and a Newton step;
// both to about one unit in the last place.
INLINE vfloat square_root(vfloat x) {  // x >= 0
#if defined(__AVX512F__)
  x = x > 1e-30f ? x : splat(1e-30f);  // the estimate of 1 / sqrt(0) is infinite
  const vfloat y = (vfloat)_mm512_rsqrt14_ps((__m512)x), root = x * y;
  return root + root * (0.5f * (1.0f - root * y));
#elif defined(__AVX2__) && defined(__FMA__)
  return (vfloat)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
INLINE vfloat quotient(vfloat a, vfloat b) {  // b in [1, 2]
#if defined(__AVX512F__)
  const vfloat y = (vfloat)_mm512_rcp14_ps((__m512)b), q = a * y;
  return q + (a - q * b) * y;
#else
  return a / b;
#endif
}

INLINE vfloat round_even(vfloat x) {  // to the nearest integer, for |x| < 2^22
  const vfloat magic = splat(12582912.0f);
  return (x + magic) - magic;
}

// exp(x) = two_n (1 + m) for x in [-87, 0], to about one unit in the last place: two_n is a power of two, m is small.
struct Power {
  vfloat two_n, m;
};
INLINE Power power_of(vfloat x) {
  const vfloat n = round_even(x * 1.44269504088896341f);
  const vfloat r = (x - n * 0.693145751953125f) - n * 1.428606765330187e-06f;  // log 2 in two parts
  vfloat p = r * 1.9875691500e-4f + 1.3981999507e-3f;  // exp(r) = 1 + r + r² p, |r| <= log(2) / 2
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return {(vfloat)((__builtin_convertvector(n, vint) + 127) << 23), r * r * p + r};
}

// tanh to about one unit in the last place. NaN stays NaN: a diverging state must be seen.
#if defined(__AVX512F__)
// A polynomial for each of 32 cells of |x|, whose coefficients lie in registers' reach. With t = |x| - centre, tanh is
// value + t (p_0 + p_1 t + …); the centres are such that the value there is a float to a hundredth of its last place. In
// the first cell both are zero, so that small results keep their relative accuracy.
struct TanhTable {
  enum { CELLS = 32, DEGREE = 5 };
  static constexpr double WIDTH = 0.29, LAST = 9.1;  // beyond the last |x| the result is 1
  alignas(64) float centre[CELLS], value[CELLS], coefficients[DEGREE + 1][CELLS];

  TanhTable() {
    for (int i = 0; i < CELLS; i++) {
      double nearest = 1.0;
      centre[i] = value[i] = 0.0f;
      for (int k = -100; i > 0 && k <= 100; k++) {
        const float c = (float)(i * WIDTH + k * 2e-5), v = (float)__builtin_tanh((double)c);
        const double off = __builtin_fabs(__builtin_tanh((double)c) - v) / v;
        if (off < nearest) nearest = off, centre[i] = c, value[i] = v;
      }
      const double end = WIDTH / 2 + 0.003, begin = i ? -end : 0.0;
      double nodes[DEGREE + 1], newton[DEGREE + 1], sum[DEGREE + 1] = {};
      for (int k = 0; k <= DEGREE; k++) {
        nodes[k] = (begin + end) / 2 + (end - begin) / 2 * __builtin_cos((k + 0.5) / (DEGREE + 1) * 3.14159265358979323846);
        newton[k] = (__builtin_tanh(centre[i] + nodes[k]) - value[i]) / nodes[k];
      }
      for (int j = 1; j <= DEGREE; j++)  // divided differences
        for (int k = DEGREE; k >= j; k--) newton[k] = (newton[k] - newton[k - 1]) / (nodes[k] - nodes[k - j]);
      for (int k = DEGREE; k >= 0; k--) {  // sum = sum (t - node) + newton
        for (int j = DEGREE; j > 0; j--) sum[j] = sum[j - 1] - nodes[k] * sum[j];
        sum[0] = newton[k] - nodes[k] * sum[0];
      }
      for (int k = 0; k <= DEGREE; k++) coefficients[k][i] = (float)sum[k];
    }
    value[CELLS - 1] = 1.0f;  // to which all of the last cell is rounded
    for (auto& coefficient : coefficients) coefficient[CELLS - 1] = 0.0f;
  }
};
static const TanhTable tanh_table;

// The table in registers, for a loop over many vectors.
struct TanhOf {
  __m512 centre[2], value[2], coefficients[TanhTable::DEGREE + 1][2];

  INLINE_MEMBER TanhOf() {
    for (int half = 0; half < 2; half++) {
      centre[half] = _mm512_load_ps(tanh_table.centre + half * LANES);
      value[half] = _mm512_load_ps(tanh_table.value + half * LANES);
#pragma GCC unroll 8
      for (int k = 0; k <= TanhTable::DEGREE; k++)
        coefficients[k][half] = _mm512_load_ps(tanh_table.coefficients[k] + half * LANES);
    }
  }
  INLINE_MEMBER vfloat operator()(vfloat x) const {
    const vword sign = (vword)x & 0x80000000u;
    vfloat y = (vfloat)((vword)x ^ sign);
    y = y > (float)TanhTable::LAST ? splat((float)TanhTable::LAST) : y;
    const vfloat cell = y * (float)(1 / TanhTable::WIDTH) + 12582912.0f;  // rounded, its number is in the lowest bits
    const vfloat t = y - of_cell(centre, cell);
    vfloat p = of_cell(coefficients[TanhTable::DEGREE], cell);
#pragma GCC unroll 8
    for (int k = TanhTable::DEGREE - 1; k >= 0; k--) p = p * t + of_cell(coefficients[k], cell);
    return (vfloat)((vword)(p * t + of_cell(value, cell)) | sign);
  }
  static INLINE_MEMBER vfloat of_cell(const __m512 table[2], vfloat cell) {
    return (vfloat)_mm512_permutex2var_ps(table[0], (__m512i)cell, table[1]);
  }
};
#else
// With s = exp(-2|x|), tanh|x| = (1 - s) / (1 + s): written with expm1 where 1 - s would cancel, and as 1 - 2s / (1 + s)
// where the result is near 1, since gradients hold 1 - tanh².
struct TanhOf {
  INLINE_MEMBER vfloat operator()(vfloat x) const {
    const vword sign = (vword)x & 0x80000000u;
    vfloat y = (vfloat)((vword)x | 0x80000000u);  // -|x|
    y = y + y;
    y = y < -20.0f ? splat(-20.0f) : y;
    const Power e = power_of(y);
    const vfloat s = e.two_n * e.m + e.two_n, minus_e = (1.0f - e.two_n) - e.two_n * e.m;
    const vint large = s < 0.33f;
    const vfloat q = quotient(large ? s + s : minus_e, 1.0f + s);
    const vfloat t = large ? 1.0f - q : q;
    return (vfloat)(((vword)t & 0x7fffffffu) | sign);
  }
};
#endif

// -2 log x of normal x in (0, 1], to two units in the last place.
#if defined(__AVX512F__)
// With x = 2^e m, m in [1, 2) in one of 32 cells: log x = e log 2 + log c + log(1 + r), r = m / c - 1, |r| <= 1 / 64. From
// sqrt(2) on e counts one more, and the last cell's c is 2 itself, so that nothing cancels as x goes to 1.
struct LogTable {
  alignas(64) float inverse[32], minus_two_log[32];
  LogTable() {
    for (int k = 0; k < 32; k++) {
      inverse[k] = k == 31 ? 0.5f : 1.0f / (1.0f + (k + 0.5f) / 32);
      minus_two_log[k] = (float)(2 * __builtin_log((double)inverse[k] * (k < 13 ? 1 : 2)));
    }
  }
};
static const LogTable log_table;

INLINE vfloat minus_two_log(vfloat x) {
  const __m512i i = (__m512i)x, cell = _mm512_srli_epi32(i, 18);
  const vfloat m = (vfloat)_mm512_ternarylogic_epi32(i, _mm512_set1_epi32(0x7fffff), _mm512_set1_epi32(0x3f800000), 0xEA);
  const vint e = ((vint)(i) + (19 << 18)) >> 23;
  const float *a = log_table.inverse, *b = log_table.minus_two_log;
  const vfloat inverse = (vfloat)_mm512_permutex2var_ps(_mm512_load_ps(a), cell, _mm512_load_ps(a + 16));
  const vfloat constant = (vfloat)_mm512_permutex2var_ps(_mm512_load_ps(b), cell, _mm512_load_ps(b + 16));
  const vfloat r = m * inverse - 1.0f;
  vfloat p = r * 0.5f - 2.0f / 3;
  p = p * r + 1.0f;
  p = p * r - 2.0f;
  return p * r + (__builtin_convertvector(e - 127, vfloat) * -1.386294361119891f + constant);
}
#else
INLINE vfloat minus_two_log(vfloat x) {
  const vint i = (vint)x;
  const vint e = (i - 0x3f3504f3) >> 23;
  const vfloat f = (vfloat)(i - (e << 23)) - 1.0f;  // x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2))
  vfloat p = f * 7.0376836292e-2f - 1.1514610310e-1f;  // log(1 + f) = f - f² / 2 + f³ p
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const vfloat f2 = f * f, twice = (f2 - 2.0f * f) - (f2 + f2) * (f * p);
  return __builtin_convertvector(e, vfloat) * -1.386294361119891f + twice;
}
#endif

INLINE vfloat sine_of_turns(vfloat q) {  // sin(2 pi q) for |q| <= 1/4; the polynomial errs by 7e-9
  const vfloat y = q * q;
  vfloat p = y * 39.75982666015625f - 76.58116912841797f;
  p = p * y + 81.60247802734375f;
  p = p * y - 41.34168243408203f;
  p = p * y + 6.2831854820251465f;
  return q * p;
}
