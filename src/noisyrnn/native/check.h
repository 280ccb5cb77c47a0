// Whether the memory that a pass was given holds all that it reads and writes: a wrong size must never reach the loops.
#pragma once
#include <initializer_list>

#include "squares.h"

// The fields of `Call`, for library.py, which compares name, place and size of each with its own.
struct Field {
  const char* name;
  Long offset, size;
};
#define FIELD(name) {#name, (Long)offsetof(Call, name), (Long)sizeof(Call::name)},
static const Field fields[] = {
    FIELD(kind) FIELD(activation) FIELD(terms) FIELD(replicas) FIELD(rows) FIELD(steps) FIELD(inputs) FIELD(units)
    FIELD(x) FIELD(x_bytes) FIELD(x_replica) FIELD(x_row) FIELD(x_step)
    FIELD(initial) FIELD(initial_bytes) FIELD(initial_replica) FIELD(initial_row)
    FIELD(dt) FIELD(dt_bytes) FIELD(dt_replica) FIELD(dt_row) FIELD(dt_step)
    FIELD(lengths) FIELD(lengths_bytes) FIELD(seeds) FIELD(seeds_bytes)
    FIELD(A) FIELD(A_bytes) FIELD(A_replica) FIELD(W) FIELD(W_bytes) FIELD(W_replica)
    FIELD(U) FIELD(U_bytes) FIELD(U_replica) FIELD(b) FIELD(b_bytes) FIELD(b_replica)
    FIELD(step) FIELD(step_bytes) FIELD(step_replica)
    FIELD(diffusion) FIELD(diffusion_bytes) FIELD(diffusion_replica) FIELD(columns)
    FIELD(packed) FIELD(packed_bytes) FIELD(packed_replica)
    FIELD(source) FIELD(inside) FIELD(first_row) FIELD(first_step) FIELD(stream)
    FIELD(additive) FIELD(base) FIELD(slope) FIELD(first_coefficient) FIELD(second_coefficient)
    FIELD(states) FIELD(states_bytes) FIELD(saved) FIELD(saved_bytes) FIELD(last) FIELD(last_bytes)
    FIELD(grad_states) FIELD(grad_states_bytes) FIELD(grad_replica) FIELD(grad_row) FIELD(grad_step)
    FIELD(grad_last) FIELD(grad_last_bytes) FIELD(grad_last_replica) FIELD(grad_last_row)
    FIELD(d_x) FIELD(d_initial) FIELD(d_A) FIELD(d_W) FIELD(d_U) FIELD(d_b) FIELD(d_step) FIELD(d_diffusion)
    FIELD(d_x_bytes) FIELD(d_initial_bytes) FIELD(d_A_bytes) FIELD(d_W_bytes) FIELD(d_U_bytes) FIELD(d_b_bytes)
    FIELD(d_step_bytes) FIELD(d_diffusion_bytes) FIELD(threads) FIELD(parallel)
};
#undef FIELD
constexpr Long FIELDS = sizeof fields / sizeof fields[0];

// CHANGED: weights are not those that were packed; WRONG_FIELD + n: field number n does not fit.
enum Status : int { CHANGED = -3, WRONG_DRAW, WRONG_MATRIX, FINE, NO_MEMORY, WRONG_FIELD };

// Finds the first field that does not fit. Sizes are compared as double, which absurd ones do not overflow. What is
// written is new memory and must have the very size; what is read may be part of a larger array.
class Check {
 public:
  explicit Check(const Call& call) : c(call), R((double)c.replicas), H((double)c.units), I((double)c.inputs) {
    require(c.kind >= 0 && c.kind < KINDS, &c.kind);
    require(c.activation >= 0 && c.activation < ACTIVATIONS, &c.activation);
    require(c.terms == 0 || ((c.terms == 1 || c.terms == 3) && c.terms <= MOST_TERMS), &c.terms);
    for (const Long* size : {&c.replicas, &c.rows, &c.steps, &c.inputs, &c.columns}) require(*size >= 0, size);
    require(c.units >= 1, &c.units);
  }

  int pack() {
    if (status == FINE) {
      weights();
      packed();
    }
    return status;
  }

  int forward() {
    if (status != FINE) return status;
    data();
    packed();
    if (c.states) written(&c.states, c.states_bytes, R * c.steps * c.rows * H);
    if (c.saved) written(&c.saved, c.saved_bytes, R * c.steps * c.rows * H * c.planes());
    written(&c.last, c.last_bytes, R * c.rows * c.state());
    return status;
  }

  int backward() {
    if (status != FINE) return status;
    data();
    weights();
    read(&c.states, c.states_bytes, R * c.steps * c.rows * H);
    read(&c.saved, c.saved_bytes, R * c.steps * c.rows * H * c.planes());
    if (c.grad_states)
      read(&c.grad_states, c.grad_states_bytes,
           span({{c.replicas, c.grad_replica}, {c.rows, c.grad_row}, {c.steps, c.grad_step}}, H));
    if (c.grad_last)
      read(&c.grad_last, c.grad_last_bytes,
           span({{c.replicas, c.grad_last_replica}, {c.rows, c.grad_last_row}}, (double)c.state()));
    if (c.d_x) written(&c.d_x, c.d_x_bytes, R * c.rows * c.steps * I);
    written(&c.d_initial, c.d_initial_bytes, R * c.rows * c.state());
    if (!c.d_W) return status;  // the gradients of all weights are wanted, or of none
    if (c.kind == DRIFT) written(&c.d_A, c.d_A_bytes, R * H * H);
    written(&c.d_W, c.d_W_bytes, R * c.W_size());
    written(&c.d_U, c.d_U_bytes, R * H * I * c.input_groups());
    written(&c.d_b, c.d_b_bytes, R * H * c.shape().biases);
    written(&c.d_step, c.d_step_bytes, R * H);
    if (c.d_diffusion) written(&c.d_diffusion, c.d_diffusion_bytes, R * H * c.columns);
    return status;
  }

 private:
  struct Axis {
    Long size, stride;
  };
  const Call& c;
  const double R, H, I;
  int status = FINE;

  void require(bool fine, const void* field) {
    for (Long n = 0; !fine && status == FINE && n < FIELDS; n++)
      if ((const char*)&c + fields[n].offset == field) status = WRONG_FIELD + (int)n;
  }
  void read(const void* field, Long bytes, double numbers, int size = sizeof(float)) {
    require(numbers == 0 || (*(const void* const*)field && bytes >= size * numbers), field);
  }
  void written(const void* field, Long bytes, double numbers) {
    require(numbers == 0 || *(const void* const*)field, field);
    require(bytes == sizeof(float) * numbers, field);
  }

  // Numbers from the first to the last of `inner` ones behind the axes; more than there are if one of these goes back.
  static double span(std::initializer_list<Axis> axes, double inner) {
    for (const Axis& axis : axes) {
      if (axis.size < 1) return 0;
      if (axis.stride < 0) return 1e300;
      inner += (axis.size - 1.0) * axis.stride;
    }
    return inner;
  }

  // What both passes read.
  void data() {
    require(c.source >= 0 && c.source <= 3, &c.source);
    read(&c.x, c.x_bytes, span({{c.replicas, c.x_replica}, {c.rows, c.x_row}, {c.steps, c.x_step}}, I));
    read(&c.initial, c.initial_bytes, span({{c.replicas, c.initial_replica}, {c.rows, c.initial_row}}, (double)c.state()));
    if (c.dt)
      read(&c.dt, c.dt_bytes, span({{c.replicas, c.dt_replica}, {c.rows, c.dt_row}, {c.steps, c.dt_step}}, 1));
    if (c.lengths) read(&c.lengths, c.lengths_bytes, R * c.rows, sizeof(Long));
    read(&c.seeds, c.seeds_bytes, R, sizeof(uint64_t));
  }
  void weights() {
    if (c.kind == DRIFT) read(&c.A, c.A_bytes, span({{c.replicas, c.A_replica}}, H * H));
    read(&c.W, c.W_bytes, span({{c.replicas, c.W_replica}}, (double)c.W_size()));
    read(&c.U, c.U_bytes, span({{c.replicas, c.U_replica}}, H * I * c.input_groups()));
    read(&c.b, c.b_bytes, span({{c.replicas, c.b_replica}}, H * c.shape().biases));
    read(&c.step, c.step_bytes, span({{c.replicas, c.step_replica}}, H));
    if (c.columns) read(&c.diffusion, c.diffusion_bytes, span({{c.replicas, c.diffusion_replica}}, H * c.columns));
  }
  void packed() {
    read(&c.packed, c.packed_bytes, span({{c.replicas, c.packed_replica}}, c.tiles() * (double)panel_size(c)));
  }
};

// Whether two buffers hold n by n floats each.
static inline bool square_fits(const float* from, Long from_bytes, const float* to, Long to_bytes, Long n) {
  const double bytes = (double)n * n * sizeof(float);
  return n >= 0 && (n == 0 || (from && to)) && from_bytes >= bytes && to_bytes == bytes;
}
