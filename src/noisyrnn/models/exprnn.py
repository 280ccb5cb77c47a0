"""The exponential RNN: an orthogonal recurrent matrix through the matrix exponential."""

import math
from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_choice
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import Reads, RecurrenceCell
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.options import CellOptions, LayerOptions, cell_options

STARTS = ("cayley", "henaff")
BASES = ("identity", "initial")
THRESHOLD = 0.01
"""Thresholds of modReLU start uniform on plus or minus this."""


def skew_blocks(size: int, start: str) -> Tensor:
    """A block-diagonal skew-symmetric matrix, float64 `(size, size)`: how the recurrent rotation starts.

    Args:
        size: Units; an odd one leaves a last row of zeros.
        start: "henaff": angles uniform on [-π, π]. "cayley": angles `sqrt((1 - cos t) / (1 + cos t))` with t uniform on
            [0, π/2], negated, as Helfrich et al. have it.
    """
    check_choice("recurrent_init", start, STARTS)
    half = size // 2
    if start == "henaff":
        angles = (2 * torch.rand(half, dtype=torch.float64) - 1) * math.pi
    else:
        t = torch.rand(half, dtype=torch.float64) * (math.pi / 2)
        angles = -torch.sqrt((1 - t.cos()) / (1 + t.cos()))
    diagonal = torch.zeros(size - 1, dtype=torch.float64)
    diagonal[::2] = angles
    upper = torch.diag(diagonal, 1)
    return upper - upper.T


class Rotation(nn.Module):
    r"""A trained orthogonal matrix, :math:`Q_0 \exp(L - L^T)` with `L` the part of a free matrix below its diagonal.

    The exponential is computed in float64: in float32 it is orthogonal only to 1e-5 for 200 units, and to 1e-4 where
    its argument has grown.

    Args:
        blocks: The skew-symmetric :math:`K_0` at which it starts, `(size, size)`.
        base: "identity": :math:`Q_0 = I`, and training moves :math:`K = L - L^T` from :math:`K_0`, as published.
            "initial": :math:`Q_0 = \exp(K_0)`, and training moves `L` from zero.
        dtype: Type of the weights; torch's default type by default.
    """

    start: Tensor

    def __init__(self, blocks: Tensor, *, base: str, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        check_choice("recurrent_base", base, BASES)
        published = base == "identity"
        free = blocks.tril(-1) if published else torch.zeros_like(blocks)
        start = torch.eye(len(blocks)).to(blocks) if published else torch.matrix_exp(blocks)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        self.free = nn.Parameter(free.to(dtype))
        self.register_buffer("start", start.to(dtype))
        self.register_load_state_dict_pre_hook(_rename_older_weights)

    @property
    def weight(self) -> Tensor:
        """The matrix, computed from the free one."""
        lower = self.free.double().tril(-1)
        return (self.start.double() @ torch.matrix_exp(lower - lower.T)).to(self.free.dtype)


def _rename_older_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let weights saved by torch's parametrization load."""
    for old, new in (("original", "free"), ("0.base", "start")):
        old = f"{prefix}parametrizations.weight.{old}"
        if old in state:
            state[prefix + new] = state.pop(old)


class ExpCell(RecurrenceCell):
    r"""The map :math:`h \leftarrow \mathrm{modReLU}(\exp(K) h + U x)` with skew-symmetric `K`.

    As published, the entries of `U` start normal with standard deviation √(2 / `input_size`), and the thresholds of
    modReLU start uniform on ±0.01.

    Args:
        input_size: Channels of one step.
        hidden_size: Units.
        recurrent_init: "cayley" or "henaff"; see `skew_blocks`.
        recurrent_base: "identity" or "initial"; see `Rotation`.
        options: Keyword arguments of `CellOptions`. Without a bias modReLU has no threshold, and the cell is linear.
    """

    supports_dt = False
    reads: ClassVar[Reads] = {"input": (nn.Linear,), "recurrent": (Rotation,)}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        recurrent_init: str,
        recurrent_base: str,
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        dtype = options.get("dtype")
        self.input = nn.Linear(input_size, hidden_size, bias=False, dtype=dtype)
        nn.init.kaiming_normal_(self.input.weight)
        self.recurrent = Rotation(skew_blocks(hidden_size, recurrent_init), base=recurrent_base, dtype=dtype)
        self.threshold: Tensor
        threshold = torch.zeros(hidden_size, dtype=dtype)
        if options.get("bias", True):
            self.threshold = nn.Parameter(nn.init.uniform_(threshold, -THRESHOLD, THRESHOLD))
        else:
            self.register_buffer("threshold", threshold, persistent=False)

    def recurrence(self) -> Recurrence:
        """The step in tensors."""
        step = torch.ones_like(self.threshold, requires_grad=False)
        return Recurrence("modrelu", None, self.recurrent.weight, self.input.weight, self.threshold, step)


class ExpRNN(RecurrentLayer):
    r"""The exponential RNN :math:`h \leftarrow \mathrm{modReLU}(\exp(K) h + U x)`, with `exp(K)` orthogonal.

    Without a bias modReLU has no threshold, and the network is linear.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        recurrent_init: "cayley" or "henaff": how `K` starts.
        recurrent_base: "identity", as published, where the matrix is `exp(K)` and `K` is trained; or "initial", where
            it is `exp(K₀) exp(L)` with a fixed initial `K₀` and `L`, which starts at zero, is trained.
        options: Keyword arguments of `LayerOptions`.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Lezcano-Casado and Martínez-Rubio, Cheap orthogonal constraints in neural networks, ICML 2019.
    """

    built_with: ClassVar[Collection[str]] = (
        "recurrent_init",
        "recurrent_base",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        recurrent_init: str = "cayley",
        recurrent_base: str = "identity",
        **options: Unpack[LayerOptions],
    ) -> None:
        build = partial(ExpCell, recurrent_init=recurrent_init, recurrent_base=recurrent_base, **cell_options(options))
        super().__init__(build, input_size, hidden_size, **options)
        self.recurrent_init = recurrent_init
        self.recurrent_base = recurrent_base
