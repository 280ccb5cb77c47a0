// Activations, and gradients through them as functions of their values.
#pragma once
#include "call.h"

INLINE vfloat exp_of_negative(vfloat x) {  // in [-87, 0]
  const Power e = power_of(x);
  return e.two_n * e.m + e.two_n;
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

// An activation: its value, and a gradient q times its slope, given its value a.
struct Tanh {
  const TanhOf value;
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return q - q * a * a; }
};
struct Sigmoid {
  static INLINE_MEMBER vfloat value(vfloat x) { return sigmoid_of(x); }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return q * a * (1.0f - a); }
};
struct Relu {
  static INLINE_MEMBER vfloat value(vfloat x) { return larger(x, 0.0f); }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return a > 0.0f ? q : (vfloat){}; }
};
struct Softplus {
  static INLINE_MEMBER vfloat value(vfloat x) { return softplus_of(x); }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) {  // 1 - exp(-a), which cancels where a is small
    vfloat p = a * (-1.0f / 720) + 1.0f / 120;
    p = p * a - 1.0f / 24;
    p = p * a + 1.0f / 6;
    p = p * a - 0.5f;
    const vfloat small = (p * a + 1.0f) * a;
    return q * (a < 0.25f ? small : 1.0f - exp_of_negative(larger(-a, -87.0f)));
  }
};
struct Retanh {
  const TanhOf tanh;
  INLINE_MEMBER vfloat value(vfloat x) const { return larger(tanh(x), 0.0f); }
  static INLINE_MEMBER vfloat times_slope(vfloat q, vfloat a) { return a > 0.0f ? q - q * a * a : (vfloat){}; }
};
struct Identity {
  static INLINE_MEMBER vfloat value(vfloat x) { return x; }
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
