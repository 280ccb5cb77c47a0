"""Exports trained models to files that run without this library: ONNX, or an archive of `torch.export`."""

from noisyrnn.export.formats import FORMATS
from noisyrnn.export.write import export_model, export_run

__all__ = ["FORMATS", "export_model", "export_run"]
