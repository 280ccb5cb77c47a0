"""What some tests need of the processor."""

import pytest

from noisyrnn.kernels import cpp
from noisyrnn.native import library

needs_bf16 = pytest.mark.skipif(cpp.no_bf16() is not None, reason=str(cpp.no_bf16()))
"""For a test of products of bf16 on a CPU."""

needs_split = pytest.mark.skipif(
    library.most_terms() < 3, reason="the processor has no AMX, or NOISYRNN_CPU_LEVEL excludes it"
)
"""For a test of float products made of bf16 ones."""
