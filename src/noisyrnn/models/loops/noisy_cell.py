"""The noisy RNN's cell, for loops over time of one's own."""

import torch

from noisyrnn.models.lipschitz import LipschitzCell
from noisyrnn.models.loops.with_hidden_noise import WithHiddenNoise
from noisyrnn.models.noisy import noise_in_units


class NoisyCell(WithHiddenNoise):
    r"""One step of the noisy RNN, called as `nn.RNNCell` is; see `WithHiddenNoise` for its call.

    Its weights are those of a `NoisyRNN` of one cell: `layer.cell.load_state_dict(noisy_cell.cell.state_dict())`.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        step_size: See `NoisyRNN`, as for all that follow.
        learn_step: Whether the step is trained, one value a unit.
        skew_symmetry: β of `A` and `W`, in [0.5, 1].
        damping: γ of `A` and `W`, at least 0.
        skew_symmetry_w: β of `W` where it differs from that of `A`; `None` for the same.
        damping_w: γ of `W` where it differs from that of `A`; `None` for the same.
        init_std: The free matrices start at `N(0, (init_std / hidden_size)²)`, above 0.
        bias: Whether there is the bias b.
        additive: Level of the additive noise.
        multiplicative: Level of the multiplicative noise.
        noise_level: ε; other than 1 for "per_time" only.
        noise_units: "per_step" or "per_time".
        noise_form: "independent" or "shared".
        noise_law: "gaussian" or "uniform".
        device: Where the weights are; torch's default device by default.
        dtype: Type of the weights; torch's default type by default.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> cell = NoisyCell(input_size=3, hidden_size=8)
        >>> h = cell(torch.zeros(4, 3))
        >>> cell(torch.zeros(4, 3), h).shape
        torch.Size([4, 8])

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.01,
        learn_step: bool = True,
        skew_symmetry: float = 0.75,
        damping: float = 0.001,
        skew_symmetry_w: float | None = None,
        damping_w: float | None = None,
        init_std: float = 0.1,
        bias: bool = True,
        additive: float = 0.05,
        multiplicative: float = 0.02,
        noise_level: float = 1.0,
        noise_units: str = "per_step",
        noise_form: str = "independent",
        noise_law: str = "gaussian",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        noise = noise_in_units(
            noise_units=noise_units,
            noise_level=noise_level,
            additive=additive,
            multiplicative=multiplicative,
            step_size=step_size,
            learn_step=learn_step,
            noise_form=noise_form,
            noise_law=noise_law,
        )
        cell = LipschitzCell(
            input_size,
            hidden_size,
            step_size=step_size,
            learn_step=learn_step,
            skew_symmetry=skew_symmetry,
            damping=damping,
            skew_symmetry_w=skew_symmetry_w,
            damping_w=damping_w,
            init_std=init_std,
            bias=bias,
            dtype=dtype,
        )
        super().__init__(cell, noise)
        self.to(device=device, dtype=dtype)
