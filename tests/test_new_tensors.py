"""Tensors do not follow torch's default dtype and device, which another library may have set."""

import ast
from pathlib import Path

import noisyrnn

SOURCE = Path(noisyrnn.__file__).parent

MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint"),
    *("randn", "randperm", "scalar_tensor", "tensor", "zeros"),
}
WITHOUT_TYPE = {"arange", "randint", "randperm"}
"""They make integers of integers."""

AS_TORCH = {"models/antisymmetric.py", "models/exprnn.py", "models/lipschitz.py", "models/rate.py"}
"""Weights of a new layer are where torch's defaults want them, as those of any torch module."""


def test_every_new_tensor_has_a_stated_type_and_device() -> None:
    """In the source, as what no test reaches would follow the defaults too."""
    missing = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())) if place not in AS_TORCH else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = node.func.attr
            if ast.unparse(node.func.value) == "torch" and name in MAKERS:
                wanted = {"device"} if name in WITHOUT_TYPE else {"device", "dtype"}
                absent = wanted - {keyword.arg for keyword in node.keywords}
                missing += [f"{place}:{node.lineno} {name} without {word}" for word in sorted(absent)]
    assert not missing
