// The C interface: pack weights, run forward, run backward, draw noise. No dependency but the standard library.
#include <atomic>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "backward.h"
#include "check.h"
#include "draw.h"
#include "forward.h"
#include "structure.h"

// Runs f(0) … f(count - 1), each once, on at most `threads` threads; false if memory ran out. Which thread takes which
// task does not change what it computes.
template <class F>
struct Tasks {
  const F& f;
  Long count;
  std::atomic<Long> next{0};
  std::atomic<bool> failed{false};

  static void work(void* self) {
    Tasks& tasks = *(Tasks*)self;
    const FlushDenormals flush;
    try {
      for (Long i; (i = tasks.next++) < tasks.count;) tasks.f(i);
    } catch (const std::bad_alloc&) {
      tasks.failed = true;
    }
  }
};
template <class F>
static bool run_tasks(Long most, Parallel parallel, Long count, const F& f) {
  Tasks<F> tasks{f, count};
  const Long threads = most < count ? most : count;
  if (threads <= 1) {
    Tasks<F>::work(&tasks);
  } else if (parallel) {
    parallel(&Tasks<F>::work, &tasks, (unsigned)threads, 0);
  } else {
    std::vector<std::thread> crew;
    try {
      for (Long i = 1; i < threads; i++) crew.emplace_back(&Tasks<F>::work, (void*)&tasks);
    } catch (const std::system_error&) {  // no more threads to be had: fewer do the same work
    }
    Tasks<F>::work(&tasks);
    for (auto& member : crew) member.join();
  }
  return !tasks.failed;
}

// The backward pass of one replica, begun by the first thread to come and ended by the one that brings the last sums.
struct Replica {
  std::once_flag begun;
  Transposed back;
  std::mutex joining;
  std::vector<Sums> sums;  // of each slice; joined to the first, in their order, as soon as those before have come
  size_t joined = 0;

  bool join(Long slice, Sums&& found) {  // whether all are together
    std::lock_guard<std::mutex> guard(joining);
    sums[slice] = std::move(found);
    for (; joined < sums.size() && !sums[joined].empty(); joined++)
      if (joined > 0) {
        sums[0].add(sums[joined]);
        sums[joined].release();
      }
    return joined == sums.size();
  }

  void end() {  // memory for the replicas at work, not for all
    for (auto& slice : sums) slice.release();
    Memory::give_back(std::move(back.weights));
    back = {};
  }
};

// Rows of a replica are cut into slices of whole pairs: small enough to go round among threads, large enough that wide
// weights are not fetched too often. They do not depend on the number of threads, and so neither does any sum.
struct Slices {
  Long per_replica, size;
  explicit Slices(const Call& c) {
    const Long half = (c.rows + 3) / 4 * 2, least = c.units <= 256 ? 16 : 64, most = (c.rows + 63) / 64 * 2;
    size = half < 2 ? 2 : half < least ? half : least > most ? least : most;
    per_replica = (c.rows + size - 1) / size;
  }
  Long end(const Call& c, Long begin) const { return begin + size < c.rows ? begin + size : c.rows; }
};

template <class T>
static int draw(const Draw<T>& d, Long threads, Parallel parallel) {
  if (!d.fits()) return WRONG_DRAW;
  const Long block = 16, blocks = (d.steps + block - 1) / block;
  run_tasks(threads, parallel, d.rows ? d.replicas * blocks : 0, [&](Long i) {
    const Long begin = i % blocks * block, end = begin + block;
    draw_steps(d, i / blocks, begin, end < d.steps ? end : d.steps);
  });
  return FINE;
}

#define DRAW(name, T)                                                                                               \
  int name(const uint64_t* seeds, T* first, Long first_bytes, Long first_replica, Long first_step_stride, T* second, \
           Long second_bytes, Long second_replica, Long second_step_stride, Long uniform, Long replicas, Long steps,  \
           Long rows, Long units, Long first_row, Long first_step, Long stream, Long threads, Parallel parallel) {    \
    return draw<T>({seeds, first, first_bytes, first_replica, first_step_stride, second, second_bytes,               \
                    second_replica, second_step_stride, uniform, replicas, steps, rows, units, first_row, first_step, \
                    stream},                                                                                          \
                   threads, parallel);                                                                                \
  }

extern "C" {
DRAW(noisyrnn_draw_float, float)
DRAW(noisyrnn_draw_double, double)
void noisyrnn_release() { Memory::release(); }
void noisyrnn_after_fork() { Memory::after_fork(); }
int64_t noisyrnn_kept_bytes() { return Memory::floats() * sizeof(float); }
int noisyrnn_structure(const float* m, int64_t m_bytes, float* out, int64_t out_bytes, int64_t n, float c, float damping) {
  if (!square_fits(m, m_bytes, out, out_bytes, n)) return WRONG_MATRIX;
  structure(m, out, n, c, damping);
  return FINE;
}
int noisyrnn_structure_backward(const float* g, int64_t g_bytes, float* out, int64_t out_bytes, int64_t n, float c) {
  if (!square_fits(g, g_bytes, out, out_bytes, n)) return WRONG_MATRIX;
  structure_backward(g, out, n, c);
  return FINE;
}
int noisyrnn_lanes() { return LANES; }
int noisyrnn_terms() { return MOST_TERMS; }  // of `Call`
int64_t noisyrnn_call_size() { return sizeof(Call); }
int64_t noisyrnn_fields() { return FIELDS; }
const Field* noisyrnn_field(int64_t n) { return &fields[n]; }
int noisyrnn_same(int64_t count, const void* const* copies, const void* const* pieces, const int64_t* bytes) {
  for (Long i = 0; i < count; i++)
    if (memcmp(copies[i], pieces[i], bytes[i]) != 0) return 0;
  return 1;  // to the bit
}
int64_t noisyrnn_packed_size(const Call* c) { return c->tiles() * panel_size(*c); }

// The four below return a `Status`.

// `some` rows of `size` entries, as number `vector` of the `vectors` in a panel.
static void pack_rows(const Call& c, const float* rows, Long row, Long some, Long size, bool of_inputs, float* panel,
                      Long vectors, Long vector) {
#if defined(__AMX_BF16__)
  const Long terms = of_inputs ? 1 : 3;  // those of inputs are unfolded
  if (c.terms == 3)
    return pack_halves<3>(rows, row, some, size, of_inputs, panel + vector * SQUARE, vectors * terms * SQUARE, vectors * SQUARE);
#endif
#if defined(__AVX512BF16__)
  if (c.terms) return pack_halves<1>(rows, row, some, size, false, panel + vector * SQUARE, vectors * SQUARE, 0);
#endif
  (void)c, (void)of_inputs;
  transpose(rows, row, some, size, panel + vector * LANES, vectors * LANES);
}

// A, W, U, b, step and diffusion of each replica, as the forward pass reads them; of the first if `packed` has no others.
int noisyrnn_pack(const Call* call) {
  const Call& c = *call;
  if (const int wrong = Check(c).pack()) return wrong;
  const Shape& shape = c.shape();
  const Long H = c.units, I = c.inputs, V = shape.weights, E = c.entries(), groups = c.input_groups();
  for (Long r = 0; r < (c.packed_replica ? c.replicas : 1); r++) {
    float* packed = c.packed + r * c.packed_replica;
    memset(packed, 0, noisyrnn_packed_size(call) * sizeof(float));
    for (Long j0 = 0, side; j0 < c.tiles(); j0 += side, packed += side * panel_size(c)) {
      side = side_by_side(c, j0);
      for (Long k = 0; k < side; k++) {
        const Long first = (j0 + k) * LANES, some = H - first < LANES ? H - first : LANES;
        float* inputs = packed + state_panel(c) * side;
        for (Long g = 0; g < V; g++)
          for (Long source = 0; source < shape.sources; source++)
            pack_rows(c, c.weights_of(r, g) + first * E + source * H, E, some, H, false, packed + source * state_panel(c) * side / shape.sources,
                      side * V, k * V + g);
        for (Long g = 0; g < groups; g++)
          pack_rows(c, c.inputs_of(r, shape.first_input + g) + first * I, I, some, I, true, inputs, side * groups, k * groups + g);
        float* constants = inputs + input_panel(c) * side + k * constants_panel(c);
        for (Long i = 0; i < shape.biases; i++)
          memcpy(constants + i * LANES, c.b + r * c.b_replica + i * H + first, some * sizeof(float));
        memcpy(constants + shape.biases * LANES, c.step + r * c.step_replica + first, some * sizeof(float));
        if (c.columns)
          transpose(c.diffusion + r * c.diffusion_replica + first * c.columns, c.columns, some, c.columns,
                    constants + (shape.biases + 1) * LANES, LANES);
      }
    }
  }
  return FINE;
}

int noisyrnn_forward(const Call* call) {
  const Call& c = *call;
  if (const int wrong = Check(c).forward()) return wrong;
  const Slices slices(c);
  auto run = forward_slice<FloatSums>;
#if defined(__AVX512BF16__)
  if (c.terms) run = forward_slice<HalfSums<1>>;
#endif
#if defined(__AMX_BF16__)
  if (c.terms == 3) run = forward_slice<HalfSums<3>>;
#endif
  const bool done = run_tasks(c.threads, c.parallel, c.replicas * slices.per_replica, [&](Long i) {
    const Long begin = i % slices.per_replica * slices.size;
    run(c, i / slices.per_replica, begin, slices.end(c, begin));
  });
  return done ? FINE : NO_MEMORY;
}

// One step of `rows` rows with the weights that `call` has packed, if they are still those they were packed from: see
// noisyrnn_same. One function, since reading all weights leaves the processor's first cache to them: what a caller does
// between the two would wait for memory.
int noisyrnn_step(const Call* call, int64_t rows, const float* x, const float* initial, float* last, int64_t count,
                  const void* const* copies, const void* const* pieces, const int64_t* bytes) {
  if (!noisyrnn_same(count, copies, pieces, bytes)) return CHANGED;
  Call c = *call;
  c.rows = rows;
  c.x = x, c.initial = initial, c.last = last;
  c.x_bytes = rows * c.inputs * sizeof(float);
  c.initial_bytes = c.last_bytes = rows * c.state() * sizeof(float);
  return noisyrnn_forward(&c);
}

int noisyrnn_backward(const Call* call) try {
  const Call& c = *call;
  if (const int wrong = Check(c).backward()) return wrong;
  const Slices slices(c);
  const BackwardSlice run = backward_slice_of(c);
  std::vector<Replica> replicas(c.replicas);
  const bool done = run_tasks(c.threads, c.parallel, c.replicas * slices.per_replica, [&](Long i) {
    const Long r = i / slices.per_replica, slice = i % slices.per_replica, begin = slice * slices.size;
    Replica& replica = replicas[r];
    std::call_once(replica.begun, [&] {
      replica.sums.resize(slices.per_replica);
      replica.back.fill(c, r);
    });
    Sums sums;
    run(c, replica.back, r, begin, slices.end(c, begin), sums);
    if (!replica.join(slice, std::move(sums))) return;
    write_gradients(c, r, replica.sums[0]);
    replica.end();
  });
  return done ? FINE : NO_MEMORY;
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}
}
