// Activations, and their slopes as functions of their values.
#pragma once
#include "call.h"

// exp(x) for x in [-87, 0], to about one unit in the last place.
INLINE vfloat exp_of_negative(vfloat x) {
  const vfloat n = round_even(x * 1.44269504088896341f);
  const vfloat r = (x - n * 0.693145751953125f) - n * 1.428606765330187e-06f;  // log 2 in two parts
  vfloat p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const vfloat m = r * r * p + r;
  const vfloat two_n = (vfloat)((__builtin_convertvector(n, vint) + 127) << 23);
  return two_n * m + two_n;
}
INLINE vfloat size_of(vfloat x) { return (vfloat)((vword)x & 0x7fffffffu); }
INLINE vfloat larger(vfloat x, float least) { return x < least ? splat(least) : x; }  // NaN stays NaN

INLINE vfloat sigmoid_of(vfloat x) {
  const vfloat s = exp_of_negative(larger(-size_of(x), -87.0f)), q = quotient(splat(1.0f), 1.0f + s);
  return x < 0.0f ? s * q : q;
}

// log(1 + exp(x)) = max(x, 0) + log(1 + s) with s = exp(-|x|) in (0, 1], and log(1 + s) = 2 artanh(w), w = s / (2 + s).
INLINE vfloat softplus_of(vfloat x) {
  const vfloat s = exp_of_negative(larger(-size_of(x), -87.0f)), w = quotient(s, 2.0f + s), y = w * w;
  vfloat p = y * (2.0f / 15) + 2.0f / 13;
  p = p * y + 2.0f / 11;
  p = p * y + 2.0f / 9;
  p = p * y + 2.0f / 7;
  p = p * y + 2.0f / 5;
  p = p * y + 2.0f / 3;
  p = p * y + 2.0f;
  return larger(x, 0.0f) + p * w;
}

struct Tanh {
  const TanhOf value;
  static INLINE_MEMBER vfloat slope(vfloat a) { return 1.0f - a * a; }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return q - q * a * a; }
};
struct Sigmoid {
  static INLINE_MEMBER vfloat value(vfloat x) { return sigmoid_of(x); }
  static INLINE_MEMBER vfloat slope(vfloat a) { return a * (1.0f - a); }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return q * slope(a); }
};
struct Relu {
  static INLINE_MEMBER vfloat value(vfloat x) { return larger(x, 0.0f); }
  static INLINE_MEMBER vfloat slope(vfloat a) { return a > 0.0f ? splat(1.0f) : (vfloat){}; }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return a > 0.0f ? q : (vfloat){}; }
};
struct Softplus {
  static INLINE_MEMBER vfloat value(vfloat x) { return softplus_of(x); }
  static INLINE_MEMBER vfloat slope(vfloat a) {  // 1 - exp(-a), which cancels where a is small
    vfloat p = a * (-1.0f / 720) + 1.0f / 120;
    p = p * a - 1.0f / 24;
    p = p * a + 1.0f / 6;
    p = p * a - 0.5f;
    const vfloat small = (p * a + 1.0f) * a;
    return a < 0.25f ? small : 1.0f - exp_of_negative(larger(-a, -87.0f));
  }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return q * slope(a); }
};
struct Retanh {
  const TanhOf tanh;
  INLINE_MEMBER vfloat value(vfloat x) const { return larger(tanh(x), 0.0f); }
  static INLINE_MEMBER vfloat slope(vfloat a) { return a > 0.0f ? 1.0f - a * a : (vfloat){}; }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return q * slope(a); }
};
struct Identity {
  static INLINE_MEMBER vfloat value(vfloat x) { return x; }
  static INLINE_MEMBER vfloat slope(vfloat) { return splat(1.0f); }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat) { return q; }
};

// Calls f with an object of the activation's class.
template <class F>
static inline void with_activation(Long name, const F& f) {
  switch (name) {
    case TANH: return f(Tanh());
    case SIGMOID: return f(Sigmoid());
    case RELU: return f(Relu());
    case SOFTPLUS: return f(Softplus());
    case RETANH: return f(Retanh());
    default: return f(Identity());
  }
}
