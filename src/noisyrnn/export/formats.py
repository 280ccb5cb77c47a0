"""The two forms of an exported graph: an ONNX file and an archive of `torch.export`."""

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
from noisyrnn.registry import Entry

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""An exported graph that has been read again: its inputs to its outputs."""


@dataclass(frozen=True, kw_only=True)
class FormatEntry(Entry[Callable[[Graph, Mapping[str, str]], bytes]]):
    """One entry of `FORMATS`, a form of an exported graph.

    Args:
        description: One line for lists and help.
        build: Writes a graph and its metadata as the content of a file.
        read: Reads the content of a file as a function.
        suffix: Of its files.
        needs: Modules that must be installed.
    """

    read: Callable[[bytes], Run]
    suffix: str
    needs: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Raise `ValueError` unless the modules that it needs are installed."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise ValueError(
                    f"format must be 'torch' where {module} is not installed, got {self.suffix[1:]!r}. "
                    "Install noisyrnn[export]."
                )


def write_torch(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """A `.pt2` archive, of which `torch.export.load` makes a program; `metadata` are its extra files."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(_program(graph, graph.signature()), file, extra_files=dict(metadata))
    return file.getvalue()


def read_torch(content: bytes) -> Run:
    """The program of a `.pt2` archive."""
    with _quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            answer = module(*inputs)
        return (answer,) if isinstance(answer, Tensor) else answer

    return run


def write_onnx(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """An ONNX file; `metadata` are its metadata properties, and `lengths`, where there are any, may be left out."""
    signature = graph.signature()
    with _quiet():
        exported = torch.onnx.export(
            _program(graph, signature),
            input_names=signature.inputs,
            output_names=signature.outputs,
            dynamic_shapes=signature.axes,  # for the names of the sizes alone
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
    """A session of onnxruntime on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # else it says that lengths, which may be given, are not constant
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())]

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=False)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


FORMATS = {
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


def _program(graph: Graph, signature: Signature) -> torch.export.ExportedProgram:
    """The graph as `torch.export` traces it."""
    sizes = {name: torch.export.Dim(name) for axes in signature.axes for name in axes.values()}
    shapes = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in signature.axes)
    with torch.no_grad():
        return torch.export.export(graph, signature.example, dynamic_shapes=shapes)


def _default_lengths(model: Any, batch_axis: int) -> None:
    """Give the input `lengths` of an ONNX model a default, longer than any sequence.

    Inputs that may be left out have an initialiser of the same name. It can have no size that is open, so it has one
    entry, and the graph begins by repeating that for every sequence.
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
    """Without the notes that torch's exporters make of themselves."""
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
