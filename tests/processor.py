"""What some tests need of the processor."""

import pytest

from noisyrnn.kernels import cpp

needs_bf16 = pytest.mark.skipif(cpp.no_bf16() is not None, reason=str(cpp.no_bf16()))
"""For a test of products of bf16 on a CPU."""
