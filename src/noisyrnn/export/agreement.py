"""Whether an exported file gives the model's own answers."""

from copy import deepcopy

import torch
from torch import Tensor

from noisyrnn.export.formats import Run
from noisyrnn.export.graph import Graph, StepGraph, input_dtype
from noisyrnn.models import Head, SequenceToSequence

STEPS = (1, 17, 100)
BATCHES = (1, 3)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Of the largest answer, or of 1 where that is larger."""


def check_agreement(model: Head, graph: Graph, run: Run) -> None:
    """Raise unless a file that has been read again agrees with the model it was made of.

    Random inputs of the model's own mean and deviation, of several lengths, none of which was exported. The answers are
    held against the model in double precision. A model that amplifies rounding errors is allowed ten times its own.

    Args:
        model: Noise-free, on the CPU.
        graph: What was exported.
        run: What was written.

    Raises:
        RuntimeError: If an answer differs by more than is allowed, or is not finite.
    """
    exact = deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        for steps in STEPS:
            noise = torch.randn(
                batch, steps, model.layer.input_size, generator=generator, dtype=torch.float32, device="cpu"
            )
            inputs = (model.mean + model.std * noise).to(input_dtype(model))
            lengths = torch.randint(1, steps + 1, (batch,), generator=generator, device="cpu")
            if isinstance(graph, StepGraph):
                lengths = torch.full((batch,), steps, dtype=torch.int64, device="cpu")
            inputs = inputs if model.layer.batch_first else inputs.transpose(0, 1).contiguous()
            found = _answer(model, graph, run, inputs, lengths).double()
            with torch.no_grad():
                expected = _last(exact, graph, exact(inputs.double(), lengths=lengths))
                rounding = float((_last(model, graph, model(inputs, lengths=lengths)) - expected).abs().max())
            difference = float((found - expected).abs().max())
            allowed = max(TOLERANCE[model.readout.weight.dtype] * max(1.0, float(expected.abs().max())), 10 * rounding)
            if not difference <= allowed:
                raise RuntimeError(
                    f"export must agree with the model to {allowed:.1e}, got a difference of {difference:.1e} for a "
                    f"batch of {batch} and {steps} steps. Nothing was written."
                )


def _answer(model: Head, graph: Graph, run: Run, inputs: Tensor, lengths: Tensor) -> Tensor:
    """What the file says of sequences; of a stream, what it says at its end."""
    if not isinstance(graph, StepGraph):
        return run([inputs, lengths])[0]
    example = graph.signature().example[1]
    answer, state = inputs, example.new_zeros(*example.shape[:-2], len(lengths), example.shape[-1])
    for values in inputs.unbind(1 if model.layer.batch_first else 0):
        answer, state = run([values.contiguous(), state])
    return answer


def _last(model: Head, graph: Graph, answers: Tensor) -> Tensor:
    """Of an answer for each step that for the last, where the graph gives no more."""
    if not (isinstance(graph, StepGraph) and isinstance(model, SequenceToSequence)):
        return answers
    return answers.select(1 if model.layer.batch_first else 0, -1)
