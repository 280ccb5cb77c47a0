"""The Lipschitz RNN, by default with a fixed step and no noise, and the cell that it shares with the noisy RNN."""

from collections.abc import Callable, Collection
from functools import partial
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_flag, check_number
from noisyrnn.kernels.cpp.recurrent_matrix import skew_damped_together
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import LINEAR_INPUT, RecurrenceCell, bias_of
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.options import CellOptions, LayerOptions, cell_options
from noisyrnn.sde.activation import Activation, activation_of, as_option
from noisyrnn.sde.recurrent_matrix import check_skew_damped


class LipschitzCell(RecurrenceCell):
    r"""The increment :math:`d \odot (A h + a(W h + U x + b))` with `A` and `W` from `skew_damped`.

    The keyword arguments are those of `LipschitzOptions`, which describes them, and two of `CellOptions`.

    Args:
        input_size: Channels of one step.
        hidden_size: Units.
    """

    reads = LINEAR_INPUT

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float,
        learn_step: bool,
        skew_symmetry: float,
        damping: float,
        init_std: float,
        skew_symmetry_w: float | None = None,
        damping_w: float | None = None,
        activation: str | Activation = "tanh",
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        dtype = options.get("dtype")
        check_flag("learn_step", learn_step)
        check_number("step_size", step_size, above=0.0)
        check_skew_damped(skew_symmetry, damping)
        if skew_symmetry_w is not None:
            check_number("skew_symmetry_w", skew_symmetry_w, minimum=0.5, maximum=1.0)
        if damping_w is not None:
            check_number("damping_w", damping_w, minimum=0.0)
        check_number("init_std", init_std, above=0.0)
        self.activation = activation_of(activation)
        self.activation_name = self.activation.name
        self.initial_step = float(step_size)
        self.skew_symmetry = skew_symmetry
        self.damping = damping
        self.skew_symmetry_w = skew_symmetry if skew_symmetry_w is None else skew_symmetry_w
        self.damping_w = damping if damping_w is None else damping_w
        std = init_std / hidden_size
        self.B = nn.Parameter(torch.randn(hidden_size, hidden_size, dtype=dtype) * std)
        self.C = nn.Parameter(torch.randn(hidden_size, hidden_size, dtype=dtype) * std)
        self.input = nn.Linear(input_size, hidden_size, **options)
        step = torch.full((hidden_size,), self.initial_step, dtype=dtype)
        if learn_step:
            self.step_size = nn.Parameter(step)
        else:
            self.register_buffer("step_size", step)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LipschitzCell":
        """Convert as every module does; a fixed step is then written again, not rounded through the older type."""
        step = self.step_size
        readable = type(step) is Tensor and not step.is_meta  # a buffer, that is to say no parameter, with values
        constant = readable and bool((step == self.initial_step).all())
        super()._apply(fn, recurse)
        if constant:
            self.step_size.fill_(self.initial_step)
        return self

    def recurrence(self) -> Recurrence:
        """The step in tensors."""
        A, W = skew_damped_together(
            self.B,
            self.C,
            skew_symmetry=(self.skew_symmetry, self.skew_symmetry_w),
            damping=(self.damping, self.damping_w),
        )
        weights = (A, W, self.input.weight, bias_of(self.input), self.step_size)
        return Recurrence("drift", *weights, activation=self.activation)


class LipschitzRNN(RecurrentLayer):
    r"""The Lipschitz RNN :math:`h \leftarrow h + d \odot (A h + a(W h + U x + b))`.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        options: Keyword arguments of `LipschitzOptions` and `LayerOptions`.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Erichson et al., Lipschitz Recurrent Neural Networks, ICLR 2021.
    """

    built_with: ClassVar[Collection[str]] = (
        "step_size",
        "learn_step",
        "skew_symmetry",
        "damping",
        "skew_symmetry_w",
        "damping_w",
        "init_std",
        "activation",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.03,
        learn_step: bool = False,
        skew_symmetry: float = 0.75,
        damping: float = 0.001,
        skew_symmetry_w: float | None = None,
        damping_w: float | None = None,
        init_std: float = 0.1,
        activation: str | Activation = "tanh",
        **options: Unpack[LayerOptions],
    ) -> None:
        build = partial(
            LipschitzCell,
            step_size=step_size,
            learn_step=learn_step,
            skew_symmetry=skew_symmetry,
            damping=damping,
            skew_symmetry_w=skew_symmetry_w,
            damping_w=damping_w,
            init_std=init_std,
            activation=activation,
            **cell_options(options),
        )
        super().__init__(build, input_size, hidden_size, **options)
        self.step_size = step_size
        self.learn_step = learn_step
        self.skew_symmetry = skew_symmetry
        self.damping = damping
        self.skew_symmetry_w = skew_symmetry_w
        self.damping_w = damping_w
        self.init_std = init_std
        self.activation = as_option(activation)
