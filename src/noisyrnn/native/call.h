// What a pass is told, and the kinds of cells. library.py mirrors struct Call.
#pragma once
#include <cstddef>

#include "lanes.h"

typedef int64_t Long;
typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel

// `Recurrence` of kernels/recurrence.py says what they compute; PLAIN is its drift without A.
enum Kind : Long { DRIFT, PLAIN, RATE, CURRENT, OSCILLATOR, MODRELU, GRU, LSTM, KINDS };
enum ActivationName : Long { TANH, SIGMOID, RELU, SOFTPLUS, RETANH, IDENTITY, ACTIVATIONS };

// Sizes of a kind, in vectors a unit. A step makes `groups` sums: the first `weights` are of products with the state, and
// those from `first_input` on are of products with the inputs. The state has `parts`: the output, and what lies behind
// it; the products read the first `sources`. `saved` vectors a step are kept for the backward pass, of which the last is
// the state's second part.
struct Shape {
  Long groups, weights, first_input, parts, sources, saved, biases;
};
constexpr Shape SHAPES[KINDS] = {
    {2, 2, 1, 1, 1, 1, 1},  // A h, W h + U x; saved a
    {1, 1, 0, 1, 1, 1, 1},  // W h + U x; a
    {1, 1, 0, 1, 1, 1, 1},  // the same
    {1, 1, 0, 2, 1, 2, 1},  // of currents: parts a(v), v; saved the change over d, v
    {1, 1, 0, 2, 2, 2, 1},  // parts y, z; saved tanh, z
    {1, 1, 0, 1, 1, 1, 1},  // saved modReLU's argument; its threshold is the bias
    {4, 3, 1, 1, 1, 4, 4},  // W_n h, (W h + U x)_r, _z, U_n x; saved r, z, n, W_n h + its bias; biases r, z, n, that one
    {4, 4, 0, 2, 1, 5, 4},  // i, f, g, o; parts h, c; saved i, f, g, o, c
};

// One pass over R replicas, B rows, T steps, I inputs, H units. Strides count floats; the last axis of every array is
// contiguous. `…_bytes` is the memory from the pointer on; check.h compares it with what the pass touches.
struct Call {
  Long kind, activation, terms;  // terms: bf16 numbers that stand for a float in products (squares.h); 0: they are of floats
  Long replicas, rows, steps, inputs, units;
  const float* x;
  Long x_bytes, x_replica, x_row, x_step;
  const float* initial;  // (R, B, state)
  Long initial_bytes, initial_replica, initial_row;
  const float* dt;  // or null
  Long dt_bytes, dt_replica, dt_row, dt_step;
  const Long* lengths;  // (R, B), or null
  Long lengths_bytes;
  const uint64_t* seeds;  // (R)
  Long seeds_bytes;
  const float* A;  // (R, H, H); of the kind DRIFT alone
  Long A_bytes, A_replica;
  const float* W;  // (R, H, sources H), of the gated kinds three or four of them one under the other, as torch has them
  Long W_bytes, W_replica;
  const float* U;  // (R, H, I); likewise
  Long U_bytes, U_replica;
  const float* b;  // (R, biases H)
  Long b_bytes, b_replica;
  const float* step;  // (R, H)
  Long step_bytes, step_replica;
  const float* diffusion;  // (R, H, columns), or null
  Long diffusion_bytes, diffusion_replica, columns;
  float* packed;  // the weights as the forward pass reads them, by noisyrnn_pack; (R or 1, packed size)
  Long packed_bytes, packed_replica;
  Long source, inside, first_row, first_step, stream;  // of the noise; NoiseSource of kernels/call.py
  float additive, base, slope;
  float first_coefficient, second_coefficient;  // of OSCILLATOR: stiffness and friction
  float* states;  // (R, T, B, H): the outputs, zero past a row's end; null: not kept
  Long states_bytes;
  float* saved;  // (R, T, B, planes H); null: not kept
  Long saved_bytes;
  float* last;  // (R, B, state)
  Long last_bytes;
  // The backward pass alone.
  const float* grad_states;  // (R, B, T, H), or null
  Long grad_states_bytes, grad_replica, grad_row, grad_step;
  const float* grad_last;  // (R, B, state), or null
  Long grad_last_bytes, grad_last_replica, grad_last_row;
  float *d_x, *d_initial, *d_A, *d_W, *d_U, *d_b, *d_step, *d_diffusion;  // contiguous; null where not wanted; all of the weights, by d_W
  Long d_x_bytes, d_initial_bytes, d_A_bytes, d_W_bytes, d_U_bytes, d_b_bytes, d_step_bytes, d_diffusion_bytes;
  Long threads;
  Parallel parallel;  // or null: threads of our own

  const Shape& shape() const { return SHAPES[kind]; }
  Long tiles() const { return (units + LANES - 1) / LANES; }  // vectors of units, the last of which may reach past them
  Long width() const { return tiles() * LANES; }
  Long entries() const { return units * shape().sources; }  // that a product reads of a row
  Long state() const { return kind == OSCILLATOR || kind == LSTM ? 2 * units : units; }
  // Sums over a slice have room for whole vectors of entries and, for squares, of inputs.
  Long padded_entries() const { return width() * shape().sources; }
  Long padded_inputs() const { return terms ? (inputs + 15) / 16 * 16 : inputs; }
  Long input_groups() const { return shape().groups - shape().first_input; }
  Long planes() const { return shape().saved + (source != 0); }  // the last is the noise's multiplier times the length
  bool noisy() const { return source != 0 || additive != 0; }
  bool scaled() const { return noisy() || dt; }  // whether steps differ from one another

  // The rows of W, or of A, that make group g, and those of U.
  const float* weights_of(Long replica, Long g) const {
    if (kind == DRIFT && g == 0) return A + replica * A_replica;
    return W + replica * W_replica + weight_block(g) * units * entries();
  }
  const float* inputs_of(Long replica, Long g) const {
    return U + replica * U_replica + (g - shape().first_input) * units * inputs;
  }
  Long W_size() const { return (shape().weights - (kind == DRIFT)) * units * entries(); }  // of one replica
  // Which of the matrices in W makes group g: torch has those of n last.
  Long weight_block(Long g) const { return kind == GRU ? (g + 2) % 3 : kind == DRIFT ? 0 : g; }
};

// Squares of 16 by 16 pairs of bf16, in words: how such operands lie in memory (squares.h).
constexpr Long BLOCK_ENTRIES = 32, SQUARE = 256;
constexpr int SIX = 6;  // products that make one of floats
INLINE Long blocks_of(Long K) { return (K + BLOCK_ENTRIES - 1) / BLOCK_ENTRIES; }
INLINE Long input_blocks(const Call& c) { return blocks_of(c.terms == 3 ? SIX * c.inputs : c.inputs); }

// Packed weights, for one vector of units after another: the rows of products with the state, those with the inputs, the
// biases and d, and the columns of a diffusion. Two vectors of units share their rows where a unit has one sum.
INLINE Long state_panel(const Call& c) {
  const Shape& s = c.shape();
  return c.terms ? s.sources * blocks_of(c.units) * c.terms * SQUARE * s.weights : c.entries() * s.weights * LANES;
}
INLINE Long input_panel(const Call& c) {
  return (c.terms ? input_blocks(c) * SQUARE : c.inputs * LANES) * c.input_groups();
}
INLINE Long constants_panel(const Call& c) { return (c.shape().biases + 1 + c.columns) * LANES; }
INLINE Long panel_size(const Call& c) { return state_panel(c) + input_panel(c) + constants_panel(c); }
// Vectors of units that share their rows, from number j on.
INLINE Long side_by_side(const Call& c, Long j) { return c.shape().groups == 1 && j + 1 < c.tiles() ? 2 : 1; }
