"""Checks that an exported file gives the outputs of its model."""

from copy import deepcopy

import torch
from torch import Tensor

from noisyrnn.export.formats import Run
from noisyrnn.export.graph import Graph, StepGraph, input_dtype
from noisyrnn.models import Head, SequenceToSequence

STEPS = (1, 17, 100)
BATCHES = (1, 3)
_MISSING = 0.3
"""Share of missing values, where a model meets them."""

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Tolerance, relative to the largest output or to 1, whichever is larger."""


def check_agreement(model: Head, graph: Graph, run: Run) -> None:
    """Raise unless an exported file, read from its content, agrees with its model.

    The inputs are random, with the mean and standard deviation of the model's data, some values missing if it meets
    that, and have several lengths that differ from the example of the export. The outputs are compared with those of
    the model in double precision. If the model amplifies rounding errors, the tolerance is ten times its own error; in
    double precision that is the effect of weights that differ in their last digit.

    Args:
        model: Noise-free model on the CPU.
        graph: Exported graph.
        run: Function that runs the file.

    Raises:
        RuntimeError: If an output differs by more than the tolerance, or is not finite.
    """
    exact, own = deepcopy(model).double(), model
    if model.readout.weight.dtype == torch.float64:
        own = deepcopy(model)
        for weight in own.parameters():
            weight.data = torch.nextafter(weight.data, weight.data.new_tensor(torch.inf))
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        for steps in STEPS:
            noise = torch.randn(batch, steps, model.input_size, generator=generator, dtype=torch.float32, device="cpu")
            if model.missing is not None:
                gone = torch.rand(noise.shape, generator=generator, dtype=torch.float32, device="cpu") < _MISSING
                noise = noise.masked_fill(gone, torch.nan)
            inputs = (model.mean + model.std * noise).to(input_dtype(model))
            lengths = torch.randint(1, steps + 1, (batch,), generator=generator, device="cpu")
            if isinstance(graph, StepGraph):
                lengths = torch.full((batch,), steps, dtype=torch.int64, device="cpu")
            inputs = inputs if model.layer.batch_first else inputs.transpose(0, 1).contiguous()
            found = _answer(model, graph, run, inputs, lengths).double()
            with torch.no_grad():
                expected = _last(exact, graph, exact(inputs.double(), lengths=lengths))
                rounding = float((_last(own, graph, own(inputs, lengths=lengths)) - expected).abs().max())
            difference = float((found - expected).abs().max())
            allowed = max(TOLERANCE[model.readout.weight.dtype] * max(1.0, float(expected.abs().max())), 10 * rounding)
            if not difference <= allowed:
                raise RuntimeError(
                    f"export must agree with the model to {allowed:.1e}, got a difference of {difference:.1e} for a "
                    f"batch of {batch} and {steps} steps. Nothing was written."
                )


def _answer(model: Head, graph: Graph, run: Run, inputs: Tensor, lengths: Tensor) -> Tensor:
    """Return the file's outputs for sequences; for a single-step file, those after the last step."""
    if not isinstance(graph, StepGraph):
        return run([inputs, lengths])[0]
    answer, examples = inputs, graph.signature().example[1:]
    states = [each.new_zeros(*each.shape[:-2], len(lengths), each.shape[-1]) for each in examples]
    for values in inputs.unbind(1 if model.layer.batch_first else 0):
        answer, *states = run([values.contiguous(), *states])
    return answer


def _last(model: Head, graph: Graph, answers: Tensor) -> Tensor:
    """Return the last step of outputs for every step, if the graph returns only that."""
    if not (isinstance(graph, StepGraph) and isinstance(model, SequenceToSequence)):
        return answers
    return answers.select(1 if model.layer.batch_first else 0, -1)
