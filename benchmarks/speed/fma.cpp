// The processor's own rate: fused multiplications and additions of float32 vectors that never leave the registers.

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int LANES = BYTES / 4;
constexpr int SUMS = 12;  // enough that none waits for its last addition, and fewer than there are registers

// At least `operations` of them; the sum keeps the compiler from leaving them out.
extern "C" float multiply_and_add(long operations) {
  Vector sums[SUMS], factor;
  for (int lane = 0; lane < LANES; lane++) factor[lane] = 0.999f;
  for (int k = 0; k < SUMS; k++)
    for (int lane = 0; lane < LANES; lane++) sums[k][lane] = 0.1f * k;
  for (long done = 0; done < operations; done += 2L * SUMS * LANES) {
#pragma GCC unroll 12
    for (int k = 0; k < SUMS; k++) sums[k] = sums[k] * factor + factor;
  }
  Vector total = sums[0];
  for (int k = 1; k < SUMS; k++) total += sums[k];
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += total[lane];
  return sum;
}
