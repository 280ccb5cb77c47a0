import math

import torch

from noisyrnn.sde import RecurrentDrift


def test_equals_written_out_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    d, d_x, batch = 4, 3, 5
    shapes = [(d, d), (d, d), (d, d_x), (d,), (batch, d), (batch, d_x)]
    A, W, U, b, h, x = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    expected = torch.empty_like(h)
    for n in range(batch):
        for i in range(d):
            inner = float(b[i]) + sum(float(U[i, k] * x[n, k]) for k in range(d_x))
            inner += sum(float(W[i, j] * h[n, j]) for j in range(d))
            expected[n, i] = sum(float(A[i, j] * h[n, j]) for j in range(d)) + math.tanh(inner)
    drift = RecurrentDrift.from_matrices(A, W, U, b)
    torch.testing.assert_close(drift(h, x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(drift.driven(h, drift.drive(x)), expected, rtol=0, atol=1e-13)


def test_drive_takes_all_steps_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    U, b = torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator)
    x = torch.randn(2, 6, 3, generator=generator)
    drive = RecurrentDrift(torch.zeros(4, 8), U, b).drive(x)
    assert drive.shape == (2, 6, 4)
    torch.testing.assert_close(drive[1, 4], U @ x[1, 4] + b)
