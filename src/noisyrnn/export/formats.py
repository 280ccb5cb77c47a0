"""Formats of an exported graph: an ONNX file and an archive of `torch.export`."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.export.graph import Graph, Signature
from noisyrnn.registry import Entry, Registry

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Function that runs an exported file: inputs to outputs."""


@dataclass(frozen=True, kw_only=True)
class FormatEntry(Entry[Callable[[Graph, Mapping[str, str]], bytes]]):
    """One entry of `FORMATS`, a format of an exported graph.

    Args:
        description: One line for lists and help.
        build: Converts a graph and its metadata to the content of a file.
        read: Converts the content of a file to a function.
        suffix: Suffix of the files.
        needs: Modules that must be installed.
    """

    read: Callable[[bytes], Run]
    suffix: str
    needs: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Raise `ValueError` unless the required modules are installed."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise ValueError(
                    f"format must be 'torch' where {module} is not installed, got {self.suffix[1:]!r}. "
                    "Install noisyrnn[export]."
                )


def write_torch(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """Return the content of a `.pt2` archive for `torch.export.load`; `metadata` become its extra files."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(_program(graph, graph.signature()), file, extra_files=dict(metadata))
    return file.getvalue()


def read_torch(content: bytes) -> Run:
    """Load the program of a `.pt2` archive."""
    with _quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            answer = module(*inputs)
        return (answer,) if isinstance(answer, Tensor) else answer

    return run


def write_onnx(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """Return the content of an ONNX file with `metadata` as properties; its input `lengths`, if any, is optional."""
    signature = graph.signature()
    with _quiet():
        exported = torch.onnx.export(
            _program(graph, signature),
            input_names=signature.inputs,
            output_names=signature.outputs,
            dynamic_shapes=signature.axes,  # only for the names of the sizes
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    if "lengths" in signature.inputs:
        (batch_axis,) = (axis for axis, name in signature.axes[0].items() if name == "batch")
        _default_lengths(model, batch_axis)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def read_onnx(content: bytes) -> Run:
    """Open a session of onnxruntime on one core.

    Raises:
        ValueError: If onnxruntime has no implementation of an operation, as of softplus in float64.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as MissingOperation

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # else it warns that lengths, an optional input, are not constant
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except MissingOperation as error:
        raise ValueError(
            f"format must be 'torch' for an operation that onnxruntime does not have, got 'onnx' ({error}). Or convert "
            "a model in float64: model.float()."
        ) from error
    names = [value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())]

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=False)}
        return [torch.from_numpy(value) for value in session.run(None, feeds)]

    return run


_ENTRIES = {
    "onnx": FormatEntry(
        description="ONNX file, for onnxruntime and other programs",
        build=write_onnx,
        read=read_onnx,
        suffix=".onnx",
        needs=("onnx", "onnxscript", "onnxruntime"),
    ),
    "torch": FormatEntry(
        description="archive of torch.export, for torch.export.load", build=write_torch, read=read_torch, suffix=".pt2"
    ),
}
FORMATS: Registry[FormatEntry] = Registry("noisyrnn.formats", _ENTRIES, kind=FormatEntry)
PRETRAINED = "pretrained"
"""Name of a format that is not a graph: weights for `noisyrnn.load` and a model card; `pretrained.py` writes both."""
PRETRAINED_DESCRIPTION = "weights for noisyrnn.load with their settings and figures, and a model card"


def _program(graph: Graph, signature: Signature) -> torch.export.ExportedProgram:
    """Trace the graph with `torch.export`."""
    sizes = {name: torch.export.Dim(name) for axes in signature.axes for name in axes.values()}
    shapes = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in signature.axes)
    with torch.no_grad():
        return torch.export.export(graph, signature.example, dynamic_shapes=shapes)


def _default_lengths(model: Any, batch_axis: int) -> None:
    """Add a default for the input `lengths` of an ONNX model, longer than any sequence.

    Optional inputs have an initializer of the same name. An initializer cannot have an open size, so it has one entry,
    which the graph first repeats for every sequence.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == "lengths":
                node.input[position] = "lengths_of_all"
    first = [
        helper.make_node("Shape", ["inputs"], ["batch_size"], start=batch_axis, end=batch_axis + 1),
        helper.make_node("Expand", ["lengths", "batch_size"], ["lengths_of_all"]),
    ]
    for node in reversed(first):
        graph.node.insert(0, node)
    graph.initializer.append(numpy_helper.from_array(np.array([np.iinfo(np.int64).max]), "lengths"))
    (value,) = (value for value in graph.input if value.name == "lengths")
    value.type.tensor_type.shape.dim[0].dim_param = "one_or_batch"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of torch's exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
