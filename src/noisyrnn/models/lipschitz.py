"""The Lipschitz RNN: the noisy RNN's cell, by default with a fixed step and no noise."""

from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.noisy import LipschitzCell


class LipschitzRNN(RecurrentLayer):
    r"""The Lipschitz RNN :math:`h \leftarrow h + d \odot (A h + \tanh(W h + U x + b))`.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        step_size: Step d, above 0.
        learn_step: Whether d is trained, one value a unit.
        skewness: β of `A` and `W`, in [0.5, 1].
        damping: γ of `A` and `W`, at least 0.
        init_std: The free matrices start at `N(0, (init_std / hidden_size)²)`, above 0.
        additive: See `RecurrentLayer`.
        multiplicative: See `RecurrentLayer`.
        noise_form: See `RecurrentLayer`.
        noise_law: See `RecurrentLayer`.
        noise_seed: See `RecurrentLayer`.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Erichson et al., Lipschitz Recurrent Neural Networks, ICLR 2021.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.03,
        learn_step: bool = False,
        skewness: float = 0.75,
        damping: float = 0.001,
        init_std: float = 0.1,
        additive: float = 0.0,
        multiplicative: float = 0.0,
        noise_form: str = "independent",
        noise_law: str = "gaussian",
        noise_seed: int | None = None,
    ) -> None:
        cell = LipschitzCell(
            input_size,
            hidden_size,
            step_size=step_size,
            learn_step=learn_step,
            skewness=skewness,
            damping=damping,
            init_std=init_std,
        )
        super().__init__(
            cell,
            additive=additive,
            multiplicative=multiplicative,
            noise_form=noise_form,
            noise_law=noise_law,
            noise_seed=noise_seed,
        )
        self.step_size = step_size
        self.learn_step = learn_step
        self.skewness = skewness
        self.damping = damping
        self.init_std = init_std
