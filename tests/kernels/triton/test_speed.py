"""The GPU kernel's time for a training step over sequential MNIST's shape, beside what others offer; needs a GPU."""

from collections.abc import Callable

import pytest
import torch
from tests.kernels.noise_terms import terms
from torch import Tensor, nn

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.triton import kernel as triton_kernel

BATCH, STEPS, HIDDEN = 128, 784, 128


def full_size(replicas: int = 1) -> KernelCall:
    """A pass on the GPU with the published noise and step."""
    generator = torch.Generator("cuda").manual_seed(1)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(replicas, *shape, generator=generator, device="cuda") * scale

    return KernelCall(
        "drift",
        randn(BATCH, STEPS, 1),
        randn(BATCH, HIDDEN),
        randn(HIDDEN, HIDDEN, scale=0.02),
        randn(HIDDEN, HIDDEN, scale=0.02),
        randn(HIDDEN, 1),
        randn(HIDDEN, scale=0.1),
        torch.full((replicas, HIDDEN), 0.01, device="cuda"),
        None,
        None,
        None,
        torch.arange(replicas, device="cuda"),
        (),
        "tanh",
        *terms(2, 0.05, 0.02),
    )


def plain_step(call: KernelCall) -> Tensor:
    """The noisy recurrence as everyone writes it: the last state, with fresh normals every step."""
    h = call.state[0]
    A, W, U = call.A[0].T, call.W[0].T, call.U[0].T
    for m in range(call.inputs.shape[2]):
        delta = call.step[0] * (h @ A + torch.tanh(h @ W + call.inputs[0, :, m] @ U + call.b[0]))
        h = (
            h
            + delta * (1 + call.noise.multiplicative * torch.randn_like(h))
            + call.noise.additive * torch.randn_like(h)
        )
    return h


def milliseconds(run: Callable[[], object], *, repeats: int = 9) -> float:
    """Median time of `run` by device events, after two runs to warm up."""
    times = []
    for k in range(repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        if k >= 2:
            times.append(begin.elapsed_time(end))
    return sorted(times)[repeats // 2]


def fused_step(call: KernelCall, grad_last: Tensor) -> None:
    """One pass forwards and backwards by the kernel, the loss on the last state."""
    outputs, saved, _ = triton_kernel.forward(call, every_step=False, save=True)
    triton_kernel.backward(call, outputs, saved, (None, grad_last), with_inputs=False)


@pytest.mark.gpu
def test_speed_on_a_gpu() -> None:
    call = full_size()
    grad = torch.randn_like(call.state)
    ours = milliseconds(lambda: fused_step(call, grad))
    many = full_size(16)
    sixteen = milliseconds(lambda: fused_step(many, torch.randn_like(many.state)))
    leaves = [t.requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t for t in full_size()]
    plain = milliseconds(lambda: plain_step(KernelCall(*leaves)).backward(grad[0]), repeats=3)
    inputs = call.inputs[0].transpose(0, 1).contiguous()
    layer = nn.LSTM(1, 128).cuda()
    lstm = milliseconds(lambda: layer(inputs)[0][-1].backward(grad[0]))
    figures = {"ours": ours, "sixteen": sixteen, "plain": plain, "lstm": lstm}
    assert ours <= plain / 30, figures
    assert sixteen <= 1.6 * ours, figures
    assert sixteen / 16 < lstm, figures  # one pass alone is slower than cuDNN; side by side, a replica is faster
