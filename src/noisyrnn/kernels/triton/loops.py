"""The two loops over time of the GPU kernel, in Triton; imported only where they run, since that takes a while.

All kinds of recurrences share the loops; what a kind makes of its sums is in `_update`, and back in `_update_back`.

One program carries 16 sequences of one replica through all steps with the state in registers. Rows of its tile are
ordered so that rows `i` and `i + 8` are neighbours on the Brownian path and share one draw of Philox. A tile is as wide
as the hidden size rounded up to a power of two; weights are zero in the surplus, and nothing there is stored.
"""

import triton
import triton.language as tl

from noisyrnn.noise.triton_draws import normals, uniform, words

ROWS = 16
"""Sequences of one program, the fewest that a tensor core takes."""

PAIRS = tl.constexpr(ROWS // 2)


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
def _sigmoid(x):
    """Logistic function."""
    s = tl.exp(-tl.abs(x))
    q = 1.0 / (1.0 + s)
    return tl.where(x < 0, s * q, q)


@triton.jit
def _softplus(x):
    """`max(x, 0) + log(1 + s)` with `s = exp(-|x|)`; the logarithm is `2 artanh(w)` with `w = s / (2 + s)`."""
    s = tl.exp(-tl.abs(x))
    w = s / (2.0 + s)
    y = w * w
    p = y * (2.0 / 15) + 2.0 / 13
    p = p * y + 2.0 / 11
    p = p * y + 2.0 / 9
    p = p * y + 2.0 / 7
    p = p * y + 2.0 / 5
    p = p * y + 2.0 / 3
    p = p * y + 2.0
    return tl.where(x < 0, 0.0, x) + p * w


@triton.jit
def _activation(x, ACTIVATION: tl.constexpr):
    """The activation of a name; NaN stays NaN."""
    if ACTIVATION == "tanh":
        return _tanh(x)
    elif ACTIVATION == "sigmoid":
        return _sigmoid(x)
    elif ACTIVATION == "relu":
        return tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "softplus":
        return _softplus(x)
    elif ACTIVATION == "retanh":
        a = _tanh(x)
        return tl.where(a < 0, 0.0, a)
    else:
        return x


@triton.jit
def _slope(a, ACTIVATION: tl.constexpr):
    """The activation's derivative, from its value."""
    if ACTIVATION == "tanh":
        return 1.0 - a * a
    elif ACTIVATION == "sigmoid":
        return a * (1.0 - a)
    elif ACTIVATION == "relu":
        return tl.where(a > 0, 1.0, 0.0)
    elif ACTIVATION == "softplus":  # 1 - exp(-a), by its series where that cancels
        p = a * (-1.0 / 720) + 1.0 / 120
        p = p * a - 1.0 / 24
        p = p * a + 1.0 / 6
        p = p * a - 0.5
        return tl.where(a < 0.25, (p * a + 1.0) * a, 1.0 - tl.exp(-a))
    elif ACTIVATION == "retanh":
        return tl.where(a > 0, 1.0 - a * a, 0.0)
    else:
        return tl.full(a.shape, 1.0, tl.float32)


@triton.jit
def _tile(even, odd):
    """Numbers of the even and of the odd rows, `(PAIRS, HP)` each, in the order of the tile's rows."""
    return tl.reshape(tl.permute(tl.join(even, odd), (2, 0, 1)), (2 * even.shape[0], even.shape[1]))


@triton.jit
def _multiplier(c0, c1, c2, c3, base, slope, SOURCE: tl.constexpr):
    """The factor of the increment, from the words that `NoiseSource` names."""
    if SOURCE == 1:
        xi = _tile(uniform(c2), uniform(c3))
    else:
        if SOURCE == 2:
            even, odd = normals(c2, c3)
        else:
            even, odd = normals(c0, c1)
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


@triton.jit
def _product(
    x, resident, weights, k: tl.constexpr, total, HP: tl.constexpr, BLOCK: tl.constexpr, PRODUCT: tl.constexpr
):
    """`total + x @ M` for matrix number `k`, which is `resident` where the weights fit."""
    if BLOCK == HP:
        return _dot(x, resident, total, PRODUCT)
    else:
        return _streamed_dot(x, weights + k * HP * HP, total, HP, BLOCK, PRODUCT)


@triton.jit
def _shift(
    counter, pair, row, real, diffusion, drawn, step, stream, key, level, columns, width,
    HP: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_BLOCK: tl.constexpr, PRODUCT: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """The additive noise of a step, `level` times normals or times a diffusion of normals, which are saved with it."""
    if COLUMNS == 0:
        c0, c1, _, _ = words(counter, pair, step, stream, key)
        even, odd = normals(c0, c1)
        return level * _tile(even, odd)
    else:
        eta = tl.zeros((2 * PAIRS, HP), tl.float32)
        for k in tl.range(0, COLUMNS // COLUMN_BLOCK, num_stages=1):
            column = k * COLUMN_BLOCK + tl.arange(0, COLUMN_BLOCK)
            c0, c1, _, _ = words(column.to(tl.uint32)[None, :], pair, step, stream, key)
            even, odd = normals(c0, c1)
            xi = level * _tile(even, odd)
            if SAVE:
                there = real[:, None] & (column < (columns + 15) // 16 * 16)[None, :]  # all that lies there
                tl.store(drawn + row[:, None] * width + column[None, :], xi, mask=there)
            eta = _dot(xi, _load(diffusion, column, HP), eta, "tf32" if PRODUCT == "bf16" else PRODUCT)
        return eta


@triton.jit
def _update(
    z0, z1, z2, z3, h, second, d, bias, stiffness, friction,
    KIND: tl.constexpr, ACTIVATION: tl.constexpr, HAS_A: tl.constexpr,
):  # fmt: skip
    """The update of a step and the second part of the new state, from the sums; then what is saved, five planes.

    Sums: of `W h + U x + b` and of `A h` ("drift"), of the gates r, z and of the two parts of n ("gru"), of the gates
    i, f, g and o ("lstm"). Here d includes the step's length. A plane or a part that a kind lacks is any tensor.
    """
    if KIND == "drift":
        u = _activation(z0, ACTIVATION)
        return d * (z1 + u) if HAS_A else d * u, second, u, u, u, u, u
    elif KIND == "rate":
        u = _activation(z0, ACTIVATION)
        return d * (u - h), second, u, u, u, u, u
    elif KIND == "current":
        change = z0 - h
        return d * change, second, change, change, change, change, change
    elif KIND == "oscillator":
        u = _tanh(z0)
        velocity = second + d * (u - stiffness * h - friction * second)
        return d * velocity, velocity, u, velocity, u, u, u
    elif KIND == "modrelu":
        size = tl.abs(z0) + bias
        size = tl.where(size < 0, 0.0, size)
        value = tl.where(z0 == 0, 0.0, tl.where(z0 < 0, -size, size))
        return value - h, second, z0, z0, z0, z0, z0
    elif KIND == "gru":
        reset, z = _sigmoid(z0), _sigmoid(z1)
        n = _tanh(z2 + reset * z3)
        return (1.0 - z) * (n - h), second, reset, z, n, z3, z3
    else:
        i, f, g, o = _sigmoid(z0), _sigmoid(z1), _tanh(z2), _sigmoid(z3)
        c = f * second + i * g
        return o * _tanh(c) - h, c, i, f, g, o, c


@triton.jit
def _update_back(
    q, g, second, span, alive, k0, k1, k2, k3, k4, before, second_before, d, bias, stiffness, friction,
    KIND: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The gradients of the sums, four, and those of the old state's parts without the products' share.

    The sums are those of the weights' products, of which the drift's second is over d, and the last of "gru" is that of
    `W h` in n. Last comes the summand of the gradient of d, or of the threshold of "modrelu".

    Here q is the gradient of the update, zero past the end (`alive`); g and `second` are those of the new state's
    parts, of "current" that of v; k0 to k4 are the planes that were saved; d lacks the step's length, `span`.
    """
    if KIND == "drift":
        q *= span
        w = d * q * _slope(k0, ACTIVATION)
        return w, q, w, w, g, second, q * k0
    elif KIND == "rate":
        q *= span
        p = d * q
        w = p * _slope(k0, ACTIVATION)
        return w, w, w, w, g - p, second, q * (k0 - before)
    elif KIND == "current":
        q *= span
        w = d * q
        return w, w, w, w, g - w, second, q * k0
    elif KIND == "oscillator":
        moved = q * span
        second += d * moved
        pushed = tl.where(alive, second * span, 0.0)
        back = d * pushed
        w = back * (1.0 - k0 * k0)
        summand = moved * k1 + pushed * (k0 - stiffness * before - friction * second_before)
        return w, w, w, w, g - stiffness * back, second - friction * back, summand
    elif KIND == "modrelu":
        w = tl.where((tl.abs(k0) + bias > 0) & (k0 != 0), q, 0.0)
        return w, w, w, w, g - q, second, tl.where(k0 < 0, -w, w)
    elif KIND == "gru":
        rest = q - q * k1
        of_n = rest * (1.0 - k2 * k2)
        of_z = rest * k1 * (before - k2)
        of_hidden = of_n * k0
        of_r = of_hidden * k3 * (1.0 - k0)
        return of_r, of_z, of_n, of_hidden, g - rest, second, of_n
    else:
        bent = _tanh(k4)
        through = q * k3
        second += through * (1.0 - bent * bent)
        c = tl.where(alive, second, 0.0)
        of_i = c * k2 * k0 * (1.0 - k0)
        of_f = c * second_before * k1 * (1.0 - k1)
        of_g = c * k0 * (1.0 - k2 * k2)
        of_o = through * bent * (1.0 - k3)
        return of_i, of_f, of_g, of_o, g - q, tl.where(alive, second * k1, second), of_o


@triton.jit(do_not_specialize=["skip", "first_pair", "first_step", "stream"])
def forward(
    outputs, active, last, state, weights, step, bias, diffusion, dt, lengths, seed,
    skip, first_pair, first_step, stream, additive, base, slope, stiffness, friction,
    steps, batch, hidden, width, columns, weights_stride, diffusion_stride, dt_stride_r, dt_stride_b, dt_stride_t,
    KIND: tl.constexpr, ACTIVATION: tl.constexpr, HP: tl.constexpr, BLOCK: tl.constexpr, PRODUCT: tl.constexpr,
    HAS_A: tl.constexpr, HAS_DT: tl.constexpr, HAS_LENGTHS: tl.constexpr, SOURCE: tl.constexpr,
    ADDITIVE: tl.constexpr, INSIDE: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_BLOCK: tl.constexpr,
    KEEP: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """All steps of 16 sequences: `outputs` and `last` are written, `active` goes from `U x + b` to what is saved.

    A row of `active` has `width` values: planes of `hidden` values, then the numbers that a diffusion multiplied.
    """
    SECOND: tl.constexpr = KIND == "oscillator" or KIND == "lstm"
    GATED: tl.constexpr = KIND == "gru" or KIND == "lstm"
    PLANES: tl.constexpr = 5 if KIND == "lstm" else (4 if KIND == "gru" else (2 if KIND == "oscillator" else 1))
    PARTS: tl.constexpr = 2 if SECOND else 1
    replica = tl.program_id(1).to(tl.int64)
    i, unit = tl.arange(0, 2 * PAIRS), tl.arange(0, HP)
    row = 2 * (tl.program_id(0) * PAIRS + i % PAIRS) + i // PAIRS - skip
    real = (row >= 0) & (row < batch)
    inside = real[:, None] & (unit < hidden)[None, :]
    place = row[:, None] * hidden + unit[None, :]
    wide = row[:, None] * width + unit[None, :]
    whole = row[:, None] * (PARTS * hidden) + unit[None, :]
    pair = (tl.program_id(0) * PAIRS + tl.arange(0, PAIRS) + first_pair).to(tl.uint32)[:, None]
    counter = unit.to(tl.uint32)[None, :]
    key = tl.load(seed + replica)
    d = tl.load(step + replica * hidden + unit, mask=unit < hidden, other=0.0)[None, :]
    b = tl.load(bias + replica * hidden + unit, mask=unit < hidden, other=0.0)[None, :]
    state += replica * batch * PARTS * hidden
    last += replica * batch * PARTS * hidden
    h = tl.load(state + whole, mask=inside, other=0.0)
    second = h
    if SECOND:
        second = tl.load(state + hidden + whole, mask=inside, other=0.0)
    x = _activation(h, ACTIVATION) if KIND == "current" else h
    alive = real[:, None]
    if HAS_LENGTHS:
        length = tl.load(lengths + replica * batch + row, mask=real, other=0)[:, None]
    if HAS_DT:
        dt += replica * dt_stride_r + row.to(tl.int64) * dt_stride_b
    weights += replica * weights_stride
    diffusion += replica * diffusion_stride
    M0, M1, M2, M3 = 0, 0, 0, 0
    if BLOCK == HP:
        M0 = _load(weights, unit, HP)
        if HAS_A or SECOND or GATED:
            M1 = _load(weights + HP * HP, unit, HP)
        if GATED:
            M2 = _load(weights + 2 * HP * HP, unit, HP)
        if KIND == "lstm":
            M3 = _load(weights + 3 * HP * HP, unit, HP)
    outputs += replica * steps * batch * hidden
    active += replica * steps * batch * width
    drive0 = tl.load(active + wide, mask=inside, other=0.0)
    if GATED:
        drive1 = tl.load(active + hidden + wide, mask=inside, other=0.0)
        drive2 = tl.load(active + 2 * hidden + wide, mask=inside, other=0.0)
    if KIND == "lstm":
        drive3 = tl.load(active + 3 * hidden + wide, mask=inside, other=0.0)
    for t in range(steps):
        more = inside & (t + 1 < steps)
        ahead = active + batch * width
        ahead0 = tl.load(ahead + wide, mask=more, other=0.0)  # used a step later
        if GATED:
            ahead1 = tl.load(ahead + hidden + wide, mask=more, other=0.0)
            ahead2 = tl.load(ahead + 2 * hidden + wide, mask=more, other=0.0)
        if KIND == "lstm":
            ahead3 = tl.load(ahead + 3 * hidden + wide, mask=more, other=0.0)
        z0 = _product(x, M0, weights, 0, tl.zeros((2 * PAIRS, HP), tl.float32), HP, BLOCK, PRODUCT)
        z1, z2, z3 = z0, z0, z0
        if HAS_A or GATED:
            z1 = _product(x, M1, weights, 1, tl.zeros((2 * PAIRS, HP), tl.float32), HP, BLOCK, PRODUCT)
        if KIND == "oscillator":
            z0 = _product(second, M1, weights, 1, z0, HP, BLOCK, PRODUCT)
        if GATED:
            z2 = _product(x, M2, weights, 2, tl.zeros((2 * PAIRS, HP), tl.float32), HP, BLOCK, PRODUCT)
        if KIND == "lstm":
            z3 = _product(x, M3, weights, 3, tl.zeros((2 * PAIRS, HP), tl.float32), HP, BLOCK, PRODUCT)
        z0 += drive0
        if GATED:
            z1 += drive1
        if KIND == "lstm":
            z2 += drive2
            z3 += drive3
        if KIND == "gru":
            z3 = z2 + b
            z2 = drive2
        if HAS_LENGTHS:
            alive = t < length
        level, relative, length_of_step = additive, slope, d
        if HAS_DT:
            span = tl.load(dt + t * dt_stride_t, mask=real, other=1.0)[:, None]
            span = tl.where(alive, span, 1.0)  # padding may be anything
            length_of_step = d * span
            level = additive / tl.sqrt(span) if INSIDE else additive * tl.sqrt(span)
            if SOURCE != 1:
                relative = slope / tl.sqrt(span)
        now = (first_step + t).to(tl.uint32)
        if ADDITIVE and INSIDE:
            z0 += _shift(
                counter, pair, row, real, diffusion, active + PLANES * hidden, now, stream.to(tl.uint32), key, level,
                columns, width, HP, COLUMNS, COLUMN_BLOCK, PRODUCT, SAVE,
            )  # fmt: skip
        delta, changed, k0, k1, k2, k3, k4 = _update(
            z0, z1, z2, z3, h, second, length_of_step, b, stiffness, friction, KIND, ACTIVATION, HAS_A
        )
        if SOURCE != 0:
            c0, c1, c2, c3 = words(counter, pair, now, stream.to(tl.uint32), key)
            delta *= _multiplier(c0, c1, c2, c3, base, relative, SOURCE)
            if ADDITIVE:
                even, odd = normals(c0, c1)
                delta += level * _tile(even, odd)
        elif ADDITIVE and not INSIDE:
            delta += _shift(
                counter, pair, row, real, diffusion, active + PLANES * hidden, now, stream.to(tl.uint32), key, level,
                columns, width, HP, COLUMNS, COLUMN_BLOCK, PRODUCT, SAVE,
            )  # fmt: skip
        if HAS_LENGTHS:
            delta = tl.where(alive, delta, 0.0)
            changed = tl.where(alive, changed, second)
        h += delta
        if SECOND:
            second = changed
        x = _activation(h, ACTIVATION) if KIND == "current" else h
        if KEEP:
            tl.store(outputs + place, tl.where(alive, x, 0.0) if HAS_LENGTHS else x, mask=inside)
        if SAVE:
            tl.store(active + wide, tl.where(alive, k0, 0.0) if HAS_LENGTHS else k0, mask=inside)
            if PLANES > 1:
                tl.store(active + hidden + wide, tl.where(alive, k1, 0.0) if HAS_LENGTHS else k1, mask=inside)
            if GATED:
                tl.store(active + 2 * hidden + wide, tl.where(alive, k2, 0.0) if HAS_LENGTHS else k2, mask=inside)
                tl.store(active + 3 * hidden + wide, tl.where(alive, k3, 0.0) if HAS_LENGTHS else k3, mask=inside)
            if KIND == "lstm":
                tl.store(active + 4 * hidden + wide, tl.where(alive, k4, 0.0) if HAS_LENGTHS else k4, mask=inside)
        drive0 = ahead0
        if GATED:
            drive1, drive2 = ahead1, ahead2
        if KIND == "lstm":
            drive3 = ahead3
        outputs += batch * hidden
        active += batch * width
    tl.store(last + whole, h, mask=inside)
    if SECOND:
        tl.store(last + hidden + whole, second, mask=inside)


@triton.jit
def _load_before(history, start, t, inside):
    """What step `t` starts from, given where it lies for later steps and for the first one."""
    later = tl.load(history, mask=inside & (t > 0), other=0.0)
    return later + tl.load(start, mask=inside & (t == 0), other=0.0)


@triton.jit(do_not_specialize=["skip", "first_pair", "first_step", "stream"])
def backward(
    flow, grad_state, summed, active, outputs, grad_outputs, grad_last, state, weights, step, bias, dt, lengths, seed,
    skip, first_pair, first_step, stream, base, slope, stiffness, friction,
    steps, batch, hidden, width, weights_stride, dt_stride_r, dt_stride_b, dt_stride_t,
    grad_stride_r, grad_stride_b, grad_stride_t, grad_stride_h,
    KIND: tl.constexpr, ACTIVATION: tl.constexpr, HP: tl.constexpr, BLOCK: tl.constexpr, PRODUCT: tl.constexpr,
    HAS_A: tl.constexpr, HAS_DT: tl.constexpr, HAS_LENGTHS: tl.constexpr, SOURCE: tl.constexpr,
    SHIFTED: tl.constexpr, HAS_OUTPUTS: tl.constexpr, HAS_LAST: tl.constexpr,
):  # fmt: skip
    r"""All steps of 16 sequences backwards, with the gradient of the state in registers.

    With g the gradient of a step's result, :math:`q = g \odot \mu` is that of the update. From it follow the gradients
    of the sums (for the drift :math:`w = d \odot q \odot a'` and, over d, q itself for `A h`), which stream out as
    `flow`, `(steps, batch, planes)`, for the products that make the weights' gradients. The last plane is that of the
    additive noise, where a diffusion makes it (`SHIFTED`). The gradient of the step, or of the threshold of "modrelu",
    has a part that is no such product: it is added up here, in a row of `summed` for each program.
    """
    SECOND: tl.constexpr = KIND == "oscillator" or KIND == "lstm"
    GATED: tl.constexpr = KIND == "gru" or KIND == "lstm"
    FLOWS: tl.constexpr = 4 if GATED else (2 if HAS_A else 1)
    PLANES: tl.constexpr = FLOWS + 1 if SHIFTED else FLOWS
    PARTS: tl.constexpr = 2 if SECOND else 1
    BEFORE: tl.constexpr = KIND == "rate" or KIND == "oscillator" or KIND == "gru"
    replica = tl.program_id(1).to(tl.int64)
    i, unit = tl.arange(0, 2 * PAIRS), tl.arange(0, HP)
    row = 2 * (tl.program_id(0) * PAIRS + i % PAIRS) + i // PAIRS - skip
    real = (row >= 0) & (row < batch)
    inside = real[:, None] & (unit < hidden)[None, :]
    place = row[:, None] * hidden + unit[None, :]
    wide = row[:, None] * width + unit[None, :]
    whole = row[:, None] * (PARTS * hidden) + unit[None, :]
    flow_place = row[:, None] * (PLANES * hidden) + unit[None, :]
    pair = (tl.program_id(0) * PAIRS + tl.arange(0, PAIRS) + first_pair).to(tl.uint32)[:, None]
    counter = unit.to(tl.uint32)[None, :]
    key = tl.load(seed + replica)
    d = tl.load(step + replica * hidden + unit, mask=unit < hidden, other=0.0)[None, :]
    b = tl.load(bias + replica * hidden + unit, mask=unit < hidden, other=0.0)[None, :]
    alive = real[:, None]
    if HAS_LENGTHS:
        length = tl.load(lengths + replica * batch + row, mask=real, other=0)[:, None]
    if HAS_DT:
        dt += replica * dt_stride_r + row.to(tl.int64) * dt_stride_b
    weights += replica * weights_stride
    M0, M1, M2, M3 = 0, 0, 0, 0
    if BLOCK == HP:
        M0 = _load(weights, unit, HP)
        if HAS_A or SECOND or GATED:
            M1 = _load(weights + HP * HP, unit, HP)
        if GATED:
            M2 = _load(weights + 2 * HP * HP, unit, HP)
        if KIND == "lstm":
            M3 = _load(weights + 3 * HP * HP, unit, HP)
    g = tl.zeros((2 * PAIRS, HP), tl.float32)
    second = g
    arriving = g  # gradient of the output of "current"
    state += replica * batch * PARTS * hidden
    grad_state += replica * batch * PARTS * hidden
    if HAS_LAST:
        grad_last += replica * batch * PARTS * hidden
        g = tl.load(grad_last + whole, mask=inside, other=0.0)
        if SECOND:
            second = tl.load(grad_last + hidden + whole, mask=inside, other=0.0)
    total = tl.zeros((2 * PAIRS, HP), tl.float32)
    end = (replica + 1) * steps - 1
    flow += end * batch * PLANES * hidden
    active += end * batch * width
    outputs += end * batch * hidden
    k0 = tl.load(active + wide, mask=inside, other=0.0)
    k1, k2, k3, k4, before, second_before = k0, k0, k0, k0, k0, k0
    if SECOND or GATED:
        k1 = tl.load(active + hidden + wide, mask=inside, other=0.0)
    if GATED:
        k2 = tl.load(active + 2 * hidden + wide, mask=inside, other=0.0)
        k3 = tl.load(active + 3 * hidden + wide, mask=inside, other=0.0)
    if KIND == "lstm":
        k4 = tl.load(active + 4 * hidden + wide, mask=inside, other=0.0)
    if BEFORE:
        before = _load_before(outputs - batch * hidden + place, state + whole, steps - 1, inside)
    if KIND == "current":
        before = tl.load(outputs + place, mask=inside, other=0.0)  # the output of the step itself
    if SECOND:
        kept_second = active + (hidden if KIND == "oscillator" else 4 * hidden)
        second_before = _load_before(kept_second - batch * width + wide, state + hidden + whole, steps - 1, inside)
    if HAS_OUTPUTS:
        grad_outputs += replica * grad_stride_r + tl.cast(steps - 1, tl.int64) * grad_stride_t
        grad_place = row[:, None].to(tl.int64) * grad_stride_b + unit[None, :] * grad_stride_h
        grad = tl.load(grad_outputs + grad_place, mask=inside, other=0.0)
    for back in range(steps):
        t = steps - 1 - back
        more = inside & (t > 0)
        ahead = active - batch * width + wide  # what is loaded here is used a step later
        a0 = tl.load(ahead, mask=more, other=0.0)
        a1, a2, a3, a4, before_ahead, second_ahead = a0, a0, a0, a0, a0, a0
        if GATED:
            a1 = tl.load(ahead + hidden, mask=more, other=0.0)
            a2 = tl.load(ahead + 2 * hidden, mask=more, other=0.0)
            a3 = tl.load(ahead + 3 * hidden, mask=more, other=0.0)
        if BEFORE:
            before_ahead = _load_before(outputs - 2 * batch * hidden + place, state + whole, t - 1, inside)
        if KIND == "current":
            before_ahead = tl.load(outputs - batch * hidden + place, mask=more, other=0.0)
        if SECOND:
            kept_second = active + (hidden if KIND == "oscillator" else 4 * hidden)
            start = state + hidden + whole
            second_ahead = _load_before(kept_second - 2 * batch * width + wide, start, t - 1, inside)
        if HAS_LENGTHS:
            alive = t < length
        if HAS_OUTPUTS:
            grad_outputs -= grad_stride_t
            grad_ahead = tl.load(grad_outputs + grad_place, mask=more, other=0.0)
            grad = tl.where(alive, grad, 0.0) if HAS_LENGTHS else grad
            if KIND == "current":
                arriving += grad
            else:
                g += grad
            grad = grad_ahead
        if KIND == "current":
            g += arriving * _slope(before, ACTIVATION)
        q = g
        span = 1.0
        relative = slope
        if HAS_DT:
            span = tl.load(dt + t * dt_stride_t, mask=real, other=1.0)[:, None]
            span = tl.where(alive, span, 1.0)
            if SOURCE != 1:
                relative = slope / tl.sqrt(span)
        if SOURCE != 0:
            c0, c1, c2, c3 = words(counter, pair, (first_step + t).to(tl.uint32), stream.to(tl.uint32), key)
            q *= _multiplier(c0, c1, c2, c3, base, relative, SOURCE)
        if HAS_LENGTHS:
            q = tl.where(alive, q, 0.0)
        if SHIFTED:
            shift = tl.where(alive, g, 0.0) if HAS_LENGTHS else g
            tl.store(flow + FLOWS * hidden + flow_place, shift, mask=inside)
        w0, w1, w2, w3, g, second, summand = _update_back(
            q, g, second, span, alive, k0, k1, k2, k3, k4, before, second_before, d, b, stiffness, friction,
            KIND, ACTIVATION,
        )  # fmt: skip
        if not GATED:
            total += summand
        tl.store(flow + flow_place, w0, mask=inside)
        if FLOWS > 1:
            tl.store(flow + hidden + flow_place, w1, mask=inside)
        if GATED:
            tl.store(flow + 2 * hidden + flow_place, w2, mask=inside)
            tl.store(flow + 3 * hidden + flow_place, w3, mask=inside)
        if KIND == "current":
            arriving = _product(w0, M0, weights, 0, tl.zeros((2 * PAIRS, HP), tl.float32), HP, BLOCK, PRODUCT)
        else:
            g = _product(w0, M0, weights, 0, g, HP, BLOCK, PRODUCT)
        if KIND == "oscillator":
            second = _product(w0, M1, weights, 1, second, HP, BLOCK, PRODUCT)
        if HAS_A:
            g = _product(d * w1, M1, weights, 1, g, HP, BLOCK, PRODUCT)
        if GATED:
            g = _product(w1, M1, weights, 1, g, HP, BLOCK, PRODUCT)
        if KIND == "gru":
            g = _product(w3, M2, weights, 2, g, HP, BLOCK, PRODUCT)
        if KIND == "lstm":
            g = _product(w2, M2, weights, 2, g, HP, BLOCK, PRODUCT)
            g = _product(w3, M3, weights, 3, g, HP, BLOCK, PRODUCT)
        if KIND == "oscillator":
            a1 = second_before
        if KIND == "lstm":
            a4 = second_before
        k0, k1, k2, k3, k4, before, second_before = a0, a1, a2, a3, a4, before_ahead, second_ahead
        flow -= batch * PLANES * hidden
        active -= batch * width
        outputs -= batch * hidden
    if KIND == "current":
        g += arriving * _slope(_activation(tl.load(state + whole, mask=inside, other=0.0), ACTIVATION), ACTIVATION)
    tl.store(grad_state + whole, g, mask=inside)
    if SECOND:
        tl.store(grad_state + hidden + whole, second, mask=inside)
    if not GATED:
        part = (replica * tl.num_programs(0) + tl.program_id(0)) * hidden
        tl.store(summed + part + unit, tl.sum(total, 0), mask=unit < hidden)
