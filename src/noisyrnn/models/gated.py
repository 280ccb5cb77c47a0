"""torch's own recurrent networks behind the same interface, so that they can have the same noise."""

from functools import partial
from typing import ClassVar, NamedTuple, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from noisyrnn.checks import check_choice
from noisyrnn.kernels import reference
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import Cell, Reads
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.modules import check_uncalled
from noisyrnn.models.options import CellOptions, LayerOptions, NoiseOptions, cell_options

KINDS: dict[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class TorchWeights(NamedTuple):
    """What a step uses, in torch's order."""

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor | None = None
    recurrent_bias: Tensor | None = None

    def bias(self, kind: str) -> Tensor:
        """The biases as a `Recurrence` has them: their sum, but for the two of the GRU's candidate."""
        if self.input_bias is None or self.recurrent_bias is None:
            rows, size = self.recurrent.shape
            return self.recurrent.new_zeros(rows + size if kind == "gru" else rows)
        if kind != "gru":
            return self.input_bias + self.recurrent_bias
        (r, z, n), (r_h, z_h, n_h) = self.input_bias.chunk(3), self.recurrent_bias.chunk(3)
        return torch.cat([r + r_h, z + z_h, n, n_h])


class TorchCell(Cell):
    """One layer of `nn.RNN` (tanh), `nn.GRU` or `nn.LSTM`, step by step; the state of the last is `(h, c)`.

    Args:
        input_size: Channels of one step.
        hidden_size: Units.
        kind: "rnn", "gru" or "lstm".
        options: Keyword arguments of `CellOptions`.
    """

    supports_dt = False
    reads: ClassVar[Reads] = {"rnn": tuple(KINDS.values())}

    def __init__(self, input_size: int, hidden_size: int, *, kind: str, **options: Unpack[CellOptions]) -> None:
        super().__init__(input_size, hidden_size, **options)
        check_choice("kind", kind, KINDS)
        self.kind = kind
        self.rnn = KINDS[kind](input_size, hidden_size, batch_first=True, **options)

    @property
    def state_size(self) -> int:
        """The output, and for the LSTM its memory."""
        return 2 * self.hidden_size if self.kind == "lstm" else self.hidden_size

    def weights(self) -> TorchWeights:
        """Torch's parameters."""
        return TorchWeights(*self.rnn.all_weights[0])

    def recurrence(self) -> Recurrence:
        """The step in tensors."""
        return self._recurrence(self.weights())

    def _recurrence(self, weights: TorchWeights) -> Recurrence:
        """The step with these weights."""
        step = weights.input.new_ones(self.hidden_size)
        kind = "rate" if self.kind == "rnn" else self.kind
        return Recurrence(kind, None, weights.recurrent, weights.input, weights.bias(self.kind), step)

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The new state minus the old one; `dt` has no meaning here."""
        return self.advance(inputs, state, self.weights()) - state

    def advance(self, inputs: Tensor, state: Tensor, weights: TorchWeights) -> Tensor:
        """The new state, `(batch, state_size)`."""
        if _mapped():
            recurrence = self._recurrence(weights)
            return state + recurrence.increment(recurrence.drive(inputs), state, recurrence.transposed(), None)
        if self.kind == "rnn":
            return torch.rnn_tanh_cell(inputs, state, *weights)
        if self.kind == "gru":
            return torch.gru_cell(inputs, state, *weights)
        return torch.cat(torch.lstm_cell(inputs, state.chunk(2, dim=1), *weights), dim=1)

    def run_fused(self, inputs: Tensor, state: Tensor, *, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run a noise-free pass by torch's fused loop, with the results of `kernels.reference.run`."""
        check_uncalled(self, type(self).__name__)
        if _mapped():
            outputs, end = reference.run(self, inputs, state, lengths=lengths)
            assert outputs is not None
            return outputs, end
        steps = inputs.shape[1]
        start = [part.unsqueeze(0).contiguous() for part in state.split(self.hidden_size, dim=1)]
        h_0 = tuple(start) if self.kind == "lstm" else start[0]
        if lengths is None:
            outputs, end = self.rnn(inputs, h_0)
        else:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            outputs, end = self.rnn(packed, h_0)
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=steps)
        return outputs, torch.cat([part[0] for part in end], dim=1) if self.kind == "lstm" else end[0]


def _mapped() -> bool:
    """Whether `torch.func.vmap` is active, for which torch's recurrent functions have no rule."""
    if not torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():  # which cannot follow the next lines
        return True
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


class _TorchRNN(RecurrentLayer):
    """What `TanhRNN`, `GRU` and `LSTM` share: a `TorchCell` of their kind, by default without noise."""

    kind: ClassVar[str]

    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[LayerOptions]) -> None:
        build = partial(TorchCell, kind=self.kind, **cell_options(options))
        super().__init__(build, input_size, hidden_size, **options)

    @classmethod
    def from_torch(cls, rnn: nn.RNN | nn.GRU | nn.LSTM, **noise: Unpack[NoiseOptions]) -> Self:
        """Build the layer from torch's network: the same weights, sizes and layout, and noise in training mode.

        Without noise it computes the same outputs. The weights are copied; sizes, `num_layers`, `bidirectional`,
        `batch_first`, `bias`, `dropout`, dtype, device and mode are those of `rnn`.

        Args:
            rnn: `nn.RNN` with tanh for `TanhRNN`, `nn.GRU` for `GRU`, `nn.LSTM` without projections for `LSTM`.
            noise: Keyword arguments of `NoiseOptions`, such as `additive`.

        Raises:
            TypeError: If `rnn` is of another class, also one that torch derived for a parametrization.
            ValueError: If it has another nonlinearity, projections, or parameters that are computed from others.

        Example:
            >>> gru = nn.GRU(3, 8, batch_first=True)
            >>> layer = GRU.from_torch(gru, additive=0.05).eval()
            >>> inputs = torch.randn(2, 5, 3)
            >>> torch.allclose(layer(inputs)[0], gru(inputs)[0], atol=1e-6)
            True
        """
        expected = KINDS[cls.kind]
        if type(rnn) is not expected:
            raise TypeError(
                f"rnn must be an nn.{expected.__name__}, got {type(rnn).__name__}. Use the class for it (TanhRNN for "
                "nn.RNN, GRU, LSTM), and remove parametrizations first."
            )
        if getattr(rnn, "nonlinearity", "tanh") != "tanh":
            raise ValueError(
                f"rnn must have nonlinearity 'tanh', got {rnn.nonlinearity!r}. Wrap a cell: "
                "RecurrentLayer(my_cell, input_size, hidden_size)."
            )
        if rnn.proj_size:
            raise ValueError(f"rnn must have no projections, got proj_size {rnn.proj_size}. Build it with proj_size=0.")
        if rnn._forward_hooks or rnn._forward_pre_hooks:
            raise ValueError("rnn must have no forward hooks, got some. Remove them; pruning with prune.remove.")
        weight = next(rnn.parameters())
        with torch.random.fork_rng(devices=[]):  # the initial weights are replaced: a caller's draws stay the same
            layer = cls(
                rnn.input_size,
                rnn.hidden_size,
                num_layers=rnn.num_layers,
                bidirectional=rnn.bidirectional,
                batch_first=rnn.batch_first,
                bias=rnn.bias,
                dropout=rnn.dropout,
                device="cpu",
                dtype=weight.dtype,
                **noise,
            )
        with torch.no_grad():
            for place, cell in layer.cells.items():
                assert isinstance(cell, TorchCell)
                for name, parameter in cell.rnn.named_parameters():
                    source = getattr(rnn, name.replace("l0", place))
                    parameter.copy_(source)
                    parameter.requires_grad_(source.requires_grad)
        return layer.to(weight.device).train(rnn.training)


class TanhRNN(_TorchRNN):
    """The tanh RNN (`nn.RNN`), with hidden noise where `additive` or `multiplicative` is above 0."""

    kind = "rnn"


class GRU(_TorchRNN):
    """The gated recurrent unit (`nn.GRU`), with hidden noise where `additive` or `multiplicative` is above 0."""

    kind = "gru"


class LSTM(_TorchRNN):
    """The long short-term memory (`nn.LSTM`), with hidden noise where `additive` or `multiplicative` is above 0."""

    kind = "lstm"
