"""The noisy RNN."""

from functools import partial

import torch

from noisyrnn.checks import check_choice, check_number
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.lipschitz import LipschitzCell
from noisyrnn.sde.diffusion import HiddenNoise

NOISE_UNITS = ("per_step", "per_time")


def noise_in_units(
    *,
    noise_units: str,
    noise_level: float,
    additive: float,
    multiplicative: float,
    step_size: float,
    learn_step: bool,
    noise_form: str,
    noise_law: str,
) -> HiddenNoise:
    """Laws and levels of one step, from options as `NoisyRNN` has them.

    Raises:
        ValueError: If an option is out of range or does not go with another.
    """
    check_choice("noise_units", noise_units, NOISE_UNITS)
    check_number("noise_level", noise_level, minimum=0.0)
    if noise_units == "per_step":
        if noise_level != 1:
            raise ValueError(
                f"noise_level must be 1 with noise_units 'per_step', got {noise_level:g}. Use noise_units='per_time'."
            )
        return HiddenNoise(additive=additive, multiplicative=multiplicative, form=noise_form, law=noise_law)
    if learn_step:
        raise ValueError("learn_step must be False with noise_units 'per_time', got True.")
    if noise_law == "uniform":
        raise ValueError("noise_law must be 'gaussian' with noise_units 'per_time', got 'uniform'.")
    return HiddenNoise.paper(
        noise_level=noise_level,
        additive=additive,
        multiplicative=multiplicative,
        step_size=step_size,
        form=noise_form,
    )


class NoisyRNN(RecurrentLayer):
    r"""The noisy RNN: :math:`h \leftarrow h + \mu \odot d \odot (A h + \tanh(W h + U x + b)) + \eta`.

    The Euler-Maruyama discretisation of :math:`dh = f\,dt + \varepsilon(\sigma_1 + \sigma_2 f)\,dB`, trained with the
    noise on and used with it off. Defaults are the published ones.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        step_size: Initial step d of every unit, above 0.
        learn_step: Whether d is trained, one value a unit.
        skew_symmetry: β of `A` and `W`, in [0.5, 1].
        damping: γ of `A` and `W`, at least 0.
        skew_symmetry_w: β of `W` where it differs from that of `A`; `None` for the same.
        damping_w: γ of `W` where it differs from that of `A`; `None` for the same.
        init_std: The free matrices start at `N(0, (init_std / hidden_size)²)`, above 0.
        num_layers: See `RecurrentLayer`.
        bidirectional: See `RecurrentLayer`.
        batch_first: See `RecurrentLayer`.
        dropout: See `RecurrentLayer`.
        bias: Whether there is the bias b.
        additive: "per_step": standard deviation of η. "per_time": σ₁.
        multiplicative: "per_step": standard deviation of μ. "per_time": σ₂.
        noise_level: ε; other than 1 for "per_time" only.
        noise_units: "per_step" (levels of one step), or "per_time" (levels of unit time, scaled by the root of the
            step, which must then be fixed).
        noise_form: "independent" or "shared"; see `HiddenNoise`.
        noise_law: "gaussian" or "uniform"; see `HiddenNoise`.
        device: See `RecurrentLayer`.
        dtype: See `RecurrentLayer`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> layer = NoisyRNN(input_size=1, hidden_size=8)
        >>> outputs, h_n = layer(torch.zeros(2, 5, 1))
        >>> outputs.shape, h_n.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))

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
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = True,
        dropout: float = 0.0,
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
        super().__init__(
            partial(
                LipschitzCell,
                step_size=step_size,
                learn_step=learn_step,
                skew_symmetry=skew_symmetry,
                damping=damping,
                skew_symmetry_w=skew_symmetry_w,
                damping_w=damping_w,
                init_std=init_std,
                bias=bias,
                dtype=dtype,
            ),
            input_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            batch_first=batch_first,
            dropout=dropout,
            bias=bias,
            additive=additive,
            multiplicative=multiplicative,
            noise_form=noise_form,
            noise_law=noise_law,
            device=device,
            dtype=dtype,
        )
        self.step_size = step_size
        self.learn_step = learn_step
        self.skew_symmetry = skew_symmetry
        self.damping = damping
        self.skew_symmetry_w = skew_symmetry_w
        self.damping_w = damping_w
        self.init_std = init_std
        self.noise_level = noise_level
        self.noise_units = noise_units
        _ = self.hidden_noise  # options that do not go together fail here

    @property
    def hidden_noise(self) -> HiddenNoise:
        """The noise of every cell as laws and levels per step."""
        return noise_in_units(
            noise_units=self.noise_units,
            noise_level=self.noise_level,
            additive=self.additive,
            multiplicative=self.multiplicative,
            step_size=self.step_size,
            learn_step=self.learn_step,
            noise_form=self.noise_form,
            noise_law=self.noise_law,
        )
