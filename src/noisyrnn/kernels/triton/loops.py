"""The two loops over time of the GPU kernel, in Triton; imported only where they run, since that takes a while.

One program carries 16 sequences of one replica through all steps with the state in registers. Rows of its tile are
ordered so that rows `i` and `i + 8` are neighbours on the Brownian path and share one draw of Philox. A tile is as wide
as the hidden size rounded up to a power of two; weights are zero in the surplus, and nothing there is stored.
"""

import triton
import triton.language as tl

ROWS = 16
"""Sequences of one program, the fewest that a tensor core takes."""

PAIRS = tl.constexpr(ROWS // 2)


@triton.jit
def _uniform(word):
    """A number on [0, 1) from the upper 24 bits of a word."""
    return (word >> 8).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _log(x):
    """Logarithm on (0, 1] to one rounding; the built-in one is an approximation too coarse near 1 (after Cephes)."""
    bits = x.to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = (bits >> 23).to(tl.float32)
    f = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0  # in [sqrt(1/2) - 1, sqrt(2) - 1)
    z = f * f
    y = 7.0376836292e-2 * f - 1.1514610310e-1
    y = y * f + 1.1676998740e-1
    y = y * f - 1.2420140846e-1
    y = y * f + 1.4249322787e-1
    y = y * f - 1.6668057665e-1
    y = y * f + 2.0000714765e-1
    y = y * f - 2.4999993993e-1
    y = y * f + 3.3333331174e-1
    y = y * f * z - 2.12194440e-4 * exponent - 0.5 * z
    return f + y + 0.693359375 * exponent


@triton.jit
def _cos_sin(word):
    """Cosine and sine of the full turn times `_uniform(word)`, to one rounding: the quadrant is exact in integers."""
    place = (word >> 8).to(tl.int32)
    quadrant = (place + (1 << 21)) >> 22
    x = (place - (quadrant << 22)).to(tl.float32) * 3.74507028e-7  # 2 pi / 2**24; x in [-pi/4, pi/4]
    z = x * x
    s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x
    c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0
    turned = (quadrant & 1) == 1
    cos = tl.where(turned, s, c)
    sin = tl.where(turned, c, s)
    return tl.where(((quadrant + 1) & 2) == 2, -cos, cos), tl.where((quadrant & 2) == 2, -sin, sin)


@triton.jit
def _normals(first, second):
    """Two standard normals from two words, as `noisyrnn.noise.draws.box_muller` makes them."""
    radius = tl.sqrt(-2.0 * _log(((first >> 8).to(tl.float32) + 0.5) * (1.0 / 16777216.0)))
    cos, sin = _cos_sin(second)
    return radius * cos, radius * sin


@triton.jit
def _tanh(x):
    """Hyperbolic tangent to about two roundings; Triton's own is not interpreted on a CPU (after Cephes)."""
    z = x * x
    y = -5.70498872745e-3 * z + 2.06390887954e-2
    y = y * z - 5.37397155531e-2
    y = y * z + 1.33314422036e-1
    y = y * z - 3.33332819422e-1
    small = y * z * x + x
    size = tl.abs(x)
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)  # exp may overflow to infinity: then this is 1
    return tl.where(size < 0.625, small, tl.where(x < 0, -large, large))


@triton.jit
def _tile(even, odd):
    """Numbers of the even and of the odd rows, `(PAIRS, HP)` each, in the order of the tile's rows."""
    return tl.reshape(tl.permute(tl.join(even, odd), (2, 0, 1)), (2 * even.shape[0], even.shape[1]))


@triton.jit
def _words(unit, pair, step, stream, seed):
    """Philox's four words of every unit and pair of rows, `(PAIRS, HP)` each."""
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox_impl(unit, pair, step, stream, low, high)


@triton.jit
def _multiplier(c0, c1, c2, c3, base, slope, SOURCE: tl.constexpr):
    """The factor of the increment, from the words that `NoiseSource` names."""
    if SOURCE == 1:
        xi = _tile(_uniform(c2), _uniform(c3))
    else:
        if SOURCE == 2:
            even, odd = _normals(c2, c3)
        else:
            even, odd = _normals(c0, c1)
        xi = _tile(even, odd)
    return base + slope * xi


@triton.jit
def _dot(x, weights, total, PRODUCT: tl.constexpr):
    """`total + x @ weights`, the sum in float32."""
    if PRODUCT == "bf16":  # interpreted, the weights are float32 numbers that bf16 holds exactly
        return tl.dot(x.to(tl.bfloat16).to(weights.dtype), weights, total)
    else:
        return tl.dot(x, weights, total, input_precision=PRODUCT)


@triton.jit
def _load(weights, rows, HP: tl.constexpr):
    """Rows of a packed matrix."""
    return tl.load(weights + rows[:, None] * HP + tl.arange(0, HP)[None, :])


@triton.jit
def _streamed_dot(x, weights, total, HP: tl.constexpr, BLOCK: tl.constexpr, PRODUCT: tl.constexpr):
    """`total + x @ weights` with the matrix read from the cache, `BLOCK` rows at a time."""
    blocks = tl.reshape(x, (x.shape[0], HP // BLOCK, BLOCK))
    number = tl.arange(0, HP // BLOCK)[None, :, None]
    for k in range(HP // BLOCK):
        columns = tl.sum(tl.where(number == k, blocks, 0.0), 1)  # registers cannot be indexed
        total = _dot(columns, _load(weights, k * BLOCK + tl.arange(0, BLOCK), HP), total, PRODUCT)
    return total


@triton.jit(do_not_specialize=["skip", "first_pair", "first_step", "stream"])
def forward(
    outputs, active, last, state, weights, step, dt, lengths, seed,
    skip, first_pair, first_step, stream, additive, base, slope,
    steps, batch, hidden, weights_stride, dt_stride_r, dt_stride_b, dt_stride_t,
    HP: tl.constexpr, BLOCK: tl.constexpr, PRODUCT: tl.constexpr, HAS_A: tl.constexpr, HAS_DT: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, SOURCE: tl.constexpr, ADDITIVE: tl.constexpr, KEEP: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """All steps of 16 sequences: `outputs` and `last` are written, `active` goes from `U x + b` to the tanh."""
    replica = tl.program_id(1).to(tl.int64)
    i, unit = tl.arange(0, 2 * PAIRS), tl.arange(0, HP)
    row = 2 * (tl.program_id(0) * PAIRS + i % PAIRS) + i // PAIRS - skip
    real = (row >= 0) & (row < batch)
    inside = real[:, None] & (unit < hidden)[None, :]
    place = row[:, None] * hidden + unit[None, :]
    pair = (tl.program_id(0) * PAIRS + tl.arange(0, PAIRS) + first_pair).to(tl.uint32)[:, None]
    counter = unit.to(tl.uint32)[None, :]
    key = tl.load(seed + replica)
    d = tl.load(step + replica * hidden + unit, mask=unit < hidden, other=0.0)[None, :]
    h = tl.load(state + replica * batch * hidden + place, mask=inside, other=0.0)
    if HAS_LENGTHS:
        length = tl.load(lengths + replica * batch + row, mask=real, other=0)[:, None]
    if HAS_DT:
        dt += replica * dt_stride_r + row.to(tl.int64) * dt_stride_b
    weights += replica * weights_stride
    if BLOCK == HP:
        W = _load(weights, unit, HP)
        if HAS_A:
            A = _load(weights + HP * HP, unit, HP)
    outputs += replica * steps * batch * hidden
    active += replica * steps * batch * hidden
    drive = tl.load(active + place, mask=inside, other=0.0)
    for t in range(steps):
        ahead = tl.load(active + batch * hidden + place, mask=inside & (t + 1 < steps), other=0.0)  # used a step later
        z = tl.zeros((2 * PAIRS, HP), tl.float32)
        force = tl.zeros((2 * PAIRS, HP), tl.float32)
        if BLOCK == HP:
            z = _dot(h, W, z, PRODUCT)
            if HAS_A:
                force = _dot(h, A, force, PRODUCT)
        else:
            z = _streamed_dot(h, weights, z, HP, BLOCK, PRODUCT)
            if HAS_A:
                force = _streamed_dot(h, weights + HP * HP, force, HP, BLOCK, PRODUCT)
        u = _tanh(z + drive)
        delta = d * (force + u) if HAS_A else d * u
        level, relative = additive, slope
        if HAS_DT:
            span = tl.load(dt + t * dt_stride_t, mask=real, other=1.0)[:, None]
            delta *= span
            level = additive * tl.sqrt(span)
            if SOURCE != 1:
                relative = slope / tl.sqrt(span)
        if ADDITIVE or SOURCE != 0:
            c0, c1, c2, c3 = _words(counter, pair, (first_step + t).to(tl.uint32), stream.to(tl.uint32), key)
        if SOURCE != 0:
            delta *= _multiplier(c0, c1, c2, c3, base, relative, SOURCE)
        if ADDITIVE:
            even, odd = _normals(c0, c1)
            delta += level * _tile(even, odd)
        if HAS_LENGTHS:
            alive = t < length
            h = tl.where(alive, h + delta, h)
            u = tl.where(alive, u, 0.0)
            output = tl.where(alive, h, 0.0)
        else:
            h += delta
            output = h
        if KEEP:
            tl.store(outputs + place, output, mask=inside)
        if SAVE:
            tl.store(active + place, u, mask=inside)
        drive = ahead
        outputs += batch * hidden
        active += batch * hidden
    tl.store(last + replica * batch * hidden + place, h, mask=inside)


@triton.jit(do_not_specialize=["skip", "first_pair", "first_step", "stream"])
def backward(
    flow, grad_state, grad_step, active, grad_outputs, grad_last, weights, step, dt, lengths, seed,
    skip, first_pair, first_step, stream, base, slope,
    steps, batch, hidden, weights_stride, dt_stride_r, dt_stride_b, dt_stride_t,
    grad_stride_r, grad_stride_b, grad_stride_t, grad_stride_h,
    HP: tl.constexpr, BLOCK: tl.constexpr, PRODUCT: tl.constexpr, HAS_A: tl.constexpr, HAS_DT: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, SOURCE: tl.constexpr, HAS_OUTPUTS: tl.constexpr, HAS_LAST: tl.constexpr,
):  # fmt: skip
    r"""All steps of 16 sequences backwards, with the gradient of the state in registers.

    With g the gradient of a step's result, :math:`q = g \odot \mu \, dt` belongs to `A h + u` times d, and
    :math:`w = d \odot q \odot (1 - u^2)` to the tanh's argument. Both stream out as `flow`, `(steps, batch, [w | q])`
    (no q without A), for the products that make the weights' gradients. The part of the step's gradient that is no
    such product, :math:`\sum q u`, is summed here, a row of `grad_step` for each program.
    """
    replica = tl.program_id(1).to(tl.int64)
    i, unit = tl.arange(0, 2 * PAIRS), tl.arange(0, HP)
    row = 2 * (tl.program_id(0) * PAIRS + i % PAIRS) + i // PAIRS - skip
    real = (row >= 0) & (row < batch)
    inside = real[:, None] & (unit < hidden)[None, :]
    place = row[:, None] * hidden + unit[None, :]
    width = 2 * hidden if HAS_A else hidden
    wide_place = row[:, None] * width + unit[None, :]
    pair = (tl.program_id(0) * PAIRS + tl.arange(0, PAIRS) + first_pair).to(tl.uint32)[:, None]
    counter = unit.to(tl.uint32)[None, :]
    key = tl.load(seed + replica)
    d = tl.load(step + replica * hidden + unit, mask=unit < hidden, other=0.0)[None, :]
    if HAS_LENGTHS:
        length = tl.load(lengths + replica * batch + row, mask=real, other=0)[:, None]
    if HAS_DT:
        dt += replica * dt_stride_r + row.to(tl.int64) * dt_stride_b
    weights += replica * weights_stride
    if BLOCK == HP:
        W = _load(weights, unit, HP)
        if HAS_A:
            A = _load(weights + HP * HP, unit, HP)
    g = tl.zeros((2 * PAIRS, HP), tl.float32)
    if HAS_LAST:
        g = tl.load(grad_last + replica * batch * hidden + place, mask=inside, other=0.0)
    total = tl.zeros((2 * PAIRS, HP), tl.float32)
    end = (replica + 1) * steps - 1
    flow += end * batch * width
    active += end * batch * hidden
    u = tl.load(active + place, mask=inside, other=0.0)
    if HAS_OUTPUTS:
        grad_outputs += replica * grad_stride_r + (steps - 1).to(tl.int64) * grad_stride_t
        grad_place = row[:, None].to(tl.int64) * grad_stride_b + unit[None, :] * grad_stride_h
        grad = tl.load(grad_outputs + grad_place, mask=inside, other=0.0)
    for back in range(steps):
        t = steps - 1 - back
        ahead = tl.load(active - batch * hidden + place, mask=inside & (t > 0), other=0.0)  # used a step later
        if HAS_OUTPUTS:
            grad_outputs -= grad_stride_t
            grad_ahead = tl.load(grad_outputs + grad_place, mask=inside & (t > 0), other=0.0)
            g += tl.where(t < length, grad, 0.0) if HAS_LENGTHS else grad
            grad = grad_ahead
        q = g
        relative = slope
        if HAS_DT:
            span = tl.load(dt + t * dt_stride_t, mask=real, other=1.0)[:, None]
            q = g * span
            if SOURCE != 1:
                relative = slope / tl.sqrt(span)
        if SOURCE != 0:
            c0, c1, c2, c3 = _words(counter, pair, (first_step + t).to(tl.uint32), stream.to(tl.uint32), key)
            q *= _multiplier(c0, c1, c2, c3, base, relative, SOURCE)
        if HAS_LENGTHS:
            q = tl.where(t < length, q, 0.0)
        p = d * q
        w = p * (1.0 - u * u)
        total += q * u
        tl.store(flow + wide_place, w, mask=inside)
        if HAS_A:
            tl.store(flow + hidden + wide_place, q, mask=inside)
        if BLOCK == HP:
            g = _dot(w, W, g, PRODUCT)
            if HAS_A:
                g = _dot(p, A, g, PRODUCT)
        else:
            g = _streamed_dot(w, weights, g, HP, BLOCK, PRODUCT)
            if HAS_A:
                g = _streamed_dot(p, weights + HP * HP, g, HP, BLOCK, PRODUCT)
        u = ahead
        flow -= batch * width
        active -= batch * hidden
    tl.store(grad_state + replica * batch * hidden + place, g, mask=inside)
    part = (replica * tl.num_programs(0) + tl.program_id(0)) * hidden
    tl.store(grad_step + part + unit, tl.sum(total, 0), mask=unit < hidden)
