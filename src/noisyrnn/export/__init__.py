"""Exports trained models: ONNX or an archive of `torch.export`, or weights with their figures and a model card."""

from noisyrnn.export.formats import FORMATS
from noisyrnn.export.write import export_model, export_run

__all__ = ["FORMATS", "export_model", "export_run"]
